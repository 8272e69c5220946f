// An interpreter for the subset of PTX that nvcc emits for csrc/engine/cuda.cu, so that the arithmetic of the GPU
// kernels is tested on a machine without a GPU. tests/ptx.py compiles and calls it.
//
// Semantics: the PTX ISA, https://docs.nvidia.com/cuda/parallel-thread-execution. What is not in the table of
// instructions is an error, and so are barriers (absent from that table: threads run one after the other), accesses
// outside the memory given or not aligned to their size, and a loop without an end. What PTX leaves open comes out
// differently each time: the sign and payload of a NaN that an instruction makes, and registers before they are set.
#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace {

using Word = std::uint64_t;  // a register of any type, in its low bits
using Strings = std::vector<std::string>;

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what); }

template <class To, class From> To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
template <std::size_t size> using Unsigned =
    std::conditional_t<size == 1, std::uint8_t,
                       std::conditional_t<size == 2, std::uint16_t,
                                          std::conditional_t<size == 4, std::uint32_t, std::uint64_t>>>;
using U8 = std::uint8_t;
using S16 = std::int16_t;
using U16 = std::uint16_t;
using S32 = std::int32_t;
using U32 = std::uint32_t;
using S64 = std::int64_t;
using U64 = std::uint64_t;

// Where the parameters lie in their own address space.
constexpr U64 kParams = 0x5A5A'0000'0000u;

// Memory that the kernel may touch.
struct Window {
  U64 address, bytes;
  unsigned char* data;
  U64 writable;
};

struct Thread {
  std::vector<Word> registers;
  const unsigned char* params;
  U64 params_bytes;
  const Window* windows;
  std::size_t n_windows;
  U64 noise = 0x9E3779B97F4A7C15u;
  U64 accesses[17] = {};  // by their size in bytes

  template <class T> T get(int r) const {
    if constexpr (std::is_same_v<T, bool>) return registers[std::size_t(r)] & 1;
    return bit_cast<T>(Unsigned<sizeof(T)>(registers[std::size_t(r)]));
  }
  template <class T> void set(int r, T value) {
    if constexpr (std::is_floating_point_v<T>) {
      if (value != value) return set(r, any_nan<T>());
    }
    if constexpr (std::is_same_v<T, bool>)
      registers[std::size_t(r)] = value;
    else
      registers[std::size_t(r)] = bit_cast<Unsigned<sizeof(T)>>(value);
  }
  U64 random() { return noise ^= noise << 13, noise ^= noise >> 7, noise ^= noise << 17; }
  template <class T> Unsigned<sizeof(T)> any_nan() {
    using U = Unsigned<sizeof(T)>;
    const U quiet = bit_cast<U>(std::numeric_limits<T>::quiet_NaN());
    return U(random()) | quiet;
  }
  unsigned char* at(U64 address, std::size_t bytes, bool write) {
    if (address % bytes) fail("an access of " + std::to_string(bytes) + " bytes is not aligned to them");
    for (std::size_t i = 0; i < n_windows; ++i) {
      const Window& w = windows[i];
      if (address < w.address || address - w.address > w.bytes || w.bytes - (address - w.address) < bytes)
        continue;
      if (write && !w.writable) fail("writes into its input");
      ++accesses[bytes];
      return w.data + (address - w.address);
    }
    fail(std::string(write ? "writes" : "reads") + " outside its buffers");
  }
};

// d: where results go; the operands a, b, c are registers too: constants have registers of their own.
struct Instruction;
using Run = void (*)(Thread&, const Instruction&);
enum class Kind { plain, branch, end };
struct Instruction {
  Kind kind = Kind::plain;
  Run run = nullptr;
  int guard = -1;
  bool negated = false;
  int d[4] = {}, a[4] = {};
  int count = 1;           // of the elements of a vector
  S64 offset = 0;          // of an address
  std::size_t target = 0;  // of a branch
};

// --- The instructions ----------------------------------------------------------------------------

#define FM_UNARY(name, To, From, value)        \
  {                                            \
    name, {                                    \
      1, [](Thread& t, const Instruction& i) { \
        const From a = t.get<From>(i.a[0]);    \
        t.set<To>(i.d[0], To(value));          \
      }                                        \
    }                                          \
  }
#define FM_BINARY(name, To, From, value)                             \
  {                                                                  \
    name, {                                                          \
      2, [](Thread& t, const Instruction& i) {                       \
        const From a = t.get<From>(i.a[0]), b = t.get<From>(i.a[1]); \
        t.set<To>(i.d[0], To(value));                                \
      }                                                              \
    }                                                                \
  }
#define FM_TERNARY(name, To, From, value)                                                     \
  {                                                                                           \
    name, {                                                                                   \
      3, [](Thread& t, const Instruction& i) {                                                \
        const From a = t.get<From>(i.a[0]), b = t.get<From>(i.a[1]), c = t.get<From>(i.a[2]); \
        t.set<To>(i.d[0], To(value));                                                         \
      }                                                                                       \
    }                                                                                         \
  }
// The low bits of a, `length` of them, in the place of those of b from `position` on.
template <class T> void insert_bits(Thread& t, const Instruction& i) {
  constexpr U32 width = sizeof(T) * 8;
  const T a = t.get<T>(i.a[0]), b = t.get<T>(i.a[1]);
  const U32 position = t.get<U32>(i.a[2]) & 0xff, length = t.get<U32>(i.a[3]) & 0xff;
  T result = b;
  for (U32 k = 0; k < length && position + k < width; ++k) {
    const T bit = T(1) << (position + k);
    result = (a >> k) & 1 ? result | bit : result & ~bit;
  }
  t.set(i.d[0], result);
}
// The last operand is of another type than the others.
#define FM_LAST(name, T, Last, value)                       \
  {                                                         \
    name, {                                                 \
      3, [](Thread& t, const Instruction& i) {              \
        const T a = t.get<T>(i.a[0]), b = t.get<T>(i.a[1]); \
        const Last c = t.get<Last>(i.a[2]);                 \
        t.set<T>(i.d[0], T(value));                         \
      }                                                     \
    }                                                       \
  }
#define FM_SHIFT(name, T, value)                                 \
  {                                                              \
    name, {                                                      \
      2, [](Thread& t, const Instruction& i) {                   \
        const T a = t.get<T>(i.a[0]);                            \
        const U32 b = t.get<U32>(i.a[1]), width = sizeof(T) * 8; \
        t.set<T>(i.d[0], T(value));                              \
      }                                                          \
    }                                                            \
  }

#define FM_INTEGER_COMPARISONS(name, T)                                                        \
  FM_BINARY("setp.lt." name, bool, T, a < b), FM_BINARY("setp.le." name, bool, T, a <= b),     \
      FM_BINARY("setp.gt." name, bool, T, a > b), FM_BINARY("setp.ge." name, bool, T, a >= b), \
      FM_EQUALITIES(name, T)
#define FM_EQUALITIES(name, T) \
  FM_BINARY("setp.eq." name, bool, T, a == b), FM_BINARY("setp.ne." name, bool, T, a != b)
// A comparison with a NaN is false, in its unordered form (u) true.
#define FM_FLOAT_COMPARISONS(name, T)                                                                        \
  FM_BINARY("setp.eq." name, bool, T, a == b), FM_BINARY("setp.ne." name, bool, T, a<b || a> b),             \
      FM_BINARY("setp.lt." name, bool, T, a < b), FM_BINARY("setp.le." name, bool, T, a <= b),               \
      FM_BINARY("setp.gt." name, bool, T, a > b), FM_BINARY("setp.ge." name, bool, T, a >= b),               \
      FM_BINARY("setp.equ." name, bool, T, !(a < b || a > b)), FM_BINARY("setp.neu." name, bool, T, a != b), \
      FM_BINARY("setp.ltu." name, bool, T, !(a >= b)), FM_BINARY("setp.leu." name, bool, T, !(a > b)),       \
      FM_BINARY("setp.gtu." name, bool, T, !(a <= b)), FM_BINARY("setp.geu." name, bool, T, !(a < b)),       \
      FM_BINARY("setp.num." name, bool, T, a == a && b == b),                                                \
      FM_BINARY("setp.nan." name, bool, T, a != a || b != b)

#define FM_BITWISE(name, T)                                               \
  FM_BINARY("and." name, T, T, a& b), FM_BINARY("or." name, T, T, a | b), \
      FM_BINARY("xor." name, T, T, a ^ b), FM_UNARY("not." name, T, T, ~a)
#define FM_MOVES(name, T) FM_UNARY("mov." name, T, T, a), FM_LAST("selp." name, T, bool, c ? a : b)
// Sums wrap around, which signed integers of C++ do not.
#define FM_SUMS(name, U) FM_BINARY("add." name, U, U, a + b), FM_BINARY("sub." name, U, U, a - b)

#define FM_ROUNDED(name, T)                                                                               \
  FM_BINARY("add.rn." name, T, T, a + b), FM_BINARY("sub.rn." name, T, T, a - b),                         \
      FM_BINARY("mul.rn." name, T, T, a* b), FM_BINARY("div.rn." name, T, T, a / b),                      \
      FM_TERNARY("fma.rn." name, T, T, std::fma(a, b, c)), FM_UNARY("sqrt.rn." name, T, T, std::sqrt(a)), \
      FM_UNARY("rcp.rn." name, T, T, T(1) / a), FM_UNARY("neg." name, T, T, -a),                          \
      FM_UNARY("abs." name, T, T, std::fabs(a))

// The other operand where one is a NaN; -0 is below +0.
template <class T> T least(T a, T b) {
  if (a != a || b != b) return a != a ? b : a;
  return a == b ? (std::signbit(a) ? a : b) : a < b ? a : b;
}
template <class T> T largest(T a, T b) {
  if (a != a || b != b) return a != a ? b : a;
  return a == b ? (std::signbit(a) ? b : a) : a < b ? b : a;
}

struct Known {
  int operands;
  Run run;
};
const std::map<std::string, Known>& known() {
  static const std::map<std::string, Known> table{
      FM_ROUNDED("f32", float),
      FM_ROUNDED("f64", double),
      FM_BINARY("min.f32", float, float, least(a, b)),
      FM_BINARY("max.f32", float, float, largest(a, b)),
      FM_BINARY("min.f64", double, double, least(a, b)),
      FM_BINARY("max.f64", double, double, largest(a, b)),
      FM_UNARY("cvt.f64.f32", double, float, a),
      FM_UNARY("cvt.rn.f32.f64", float, double, a),
      FM_FLOAT_COMPARISONS("f32", float),
      FM_FLOAT_COMPARISONS("f64", double),
      FM_INTEGER_COMPARISONS("s16", S16),
      FM_INTEGER_COMPARISONS("u16", U16),
      FM_INTEGER_COMPARISONS("s32", S32),
      FM_INTEGER_COMPARISONS("u32", U32),
      FM_INTEGER_COMPARISONS("s64", S64),
      FM_INTEGER_COMPARISONS("u64", U64),
      FM_EQUALITIES("b16", U16),
      FM_EQUALITIES("b32", U32),
      FM_EQUALITIES("b64", U64),
      // Bits are moved as they are, those of NaNs too: as integers.
      FM_MOVES("b16", U16),
      FM_MOVES("u16", U16),
      FM_MOVES("s16", U16),
      FM_MOVES("b32", U32),
      FM_MOVES("u32", U32),
      FM_MOVES("s32", U32),
      FM_MOVES("f32", U32),
      FM_MOVES("b64", U64),
      FM_MOVES("u64", U64),
      FM_MOVES("s64", U64),
      FM_MOVES("f64", U64),
      FM_UNARY("mov.pred", bool, bool, a),
      FM_BINARY("and.pred", bool, bool, a&& b),
      FM_BINARY("or.pred", bool, bool, a || b),
      FM_BINARY("xor.pred", bool, bool, a != b),
      FM_UNARY("not.pred", bool, bool, !a),
      FM_BITWISE("b16", U16),
      FM_BITWISE("b32", U32),
      FM_BITWISE("b64", U64),
      FM_SUMS("s16", U16),
      FM_SUMS("u16", U16),
      FM_SUMS("s32", U32),
      FM_SUMS("u32", U32),
      FM_SUMS("s64", U64),
      FM_SUMS("u64", U64),
      FM_UNARY("neg.s32", U32, U32, 0 - a),
      FM_UNARY("neg.s64", U64, U64, 0 - a),
      FM_BINARY("mul.lo.s32", U32, U32, a * b),
      FM_BINARY("mul.lo.u32", U32, U32, a * b),
      FM_BINARY("mul.lo.s64", U64, U64, a * b),
      FM_BINARY("mul.lo.u64", U64, U64, a * b),
      FM_BINARY("mul.wide.u16", U32, U16, U32(a) * b),
      FM_BINARY("mul.wide.u32", U64, U32, U64(a) * b),
      FM_BINARY("mul.wide.s32", S64, S32, S64(a) * b),
      {"bfi.b32", {4, insert_bits<U32>}},
      {"bfi.b64", {4, insert_bits<U64>}},
      // A quotient by zero is not specified.
      FM_BINARY("div.u64", U64, U64, b ? a / b : t.random()),
      FM_BINARY("rem.u64", U64, U64, b ? a % b : t.random()),
      FM_BINARY("div.u32", U32, U32, b ? a / b : U32(t.random())),
      FM_BINARY("rem.u32", U32, U32, b ? a % b : U32(t.random())),
      // Shifts by the width or more give what infinitely many shifts by one would.
      FM_SHIFT("shl.b16", U16, b < width ? U32(a) << b : 0),
      FM_SHIFT("shl.b32", U32, b < width ? a << b : 0),
      FM_SHIFT("shl.b64", U64, b < width ? a << b : 0),
      FM_SHIFT("shr.u16", U16, b < width ? a >> b : 0),
      FM_SHIFT("shr.u32", U32, b < width ? a >> b : 0),
      FM_SHIFT("shr.u64", U64, b < width ? a >> b : 0),
      FM_SHIFT("shr.s32", S32, a >> (b < width ? b : width - 1)),
      FM_SHIFT("shr.s64", S64, a >> (b < width ? b : width - 1)),
      FM_UNARY("cvt.u64.u32", U64, U32, a),
      // To the next integer towards zero, and to the nearest number that there is; of a NaN, 0.
      FM_UNARY("cvt.rzi.u64.f32", U64, float,
               !(a > 0)       ? 0
               : a >= 0x1p64f ? ~U64(0)
                              : static_cast<U64>(a)),
      FM_UNARY("cvt.s64.s32", S64, S32, a),
      FM_UNARY("cvt.u32.u64", U32, U64, a),
      FM_UNARY("cvt.u16.u32", U16, U32, a),
      FM_UNARY("cvt.u32.u16", U32, U16, a),
      FM_UNARY("cvta.to.global.u64", U64, U64, a),  // global addresses are generic ones
  };
  return table;
}

template <class T> void load_param(Thread& t, const Instruction& i) {
  const U64 at = t.get<U64>(i.a[0]) + U64(i.offset) - kParams;
  const U64 size = sizeof(T) * U64(i.count);
  if (at % size) fail("a parameter is not aligned");
  if (at > t.params_bytes || t.params_bytes - at < size) fail("reads beyond its parameters");
  Unsigned<sizeof(T)> bits;
  for (int k = 0; k < i.count; ++k) {
    std::memcpy(&bits, t.params + at + std::size_t(k) * sizeof bits, sizeof bits);
    t.set(i.d[k], bits);
  }
}
template <class T> void load(Thread& t, const Instruction& i) {
  const std::size_t size = sizeof(T) * std::size_t(i.count);
  const unsigned char* from = t.at(t.get<U64>(i.a[0]) + U64(i.offset), size, false);
  Unsigned<sizeof(T)> bits;
  for (int k = 0; k < i.count; ++k) {
    std::memcpy(&bits, from + std::size_t(k) * sizeof bits, sizeof bits);
    t.set(i.d[k], bits);
  }
}
template <class T> void store(Thread& t, const Instruction& i) {
  const std::size_t size = sizeof(T) * std::size_t(i.count);
  unsigned char* to = t.at(t.get<U64>(i.a[0]) + U64(i.offset), size, true);
  for (int k = 0; k < i.count; ++k) {
    const auto bits = t.get<Unsigned<sizeof(T)>>(i.d[k]);
    std::memcpy(to + std::size_t(k) * sizeof bits, &bits, sizeof bits);
  }
}
// mov of two halves into one register, or of one register into two halves.
template <class Half, class Whole> void pack(Thread& t, const Instruction& i) {
  t.set(i.d[0], Whole(Whole(t.get<Half>(i.a[1])) << (8 * sizeof(Half)) | t.get<Half>(i.a[0])));
}
template <class Half, class Whole> void unpack(Thread& t, const Instruction& i) {
  const Whole whole = t.get<Whole>(i.a[0]);
  t.set(i.d[0], Half(whole));
  t.set(i.d[1], Half(whole >> (8 * sizeof(Half))));
}

// --- Parsing -------------------------------------------------------------------------------------

std::string trimmed(const std::string& s) {
  const auto first = s.find_first_not_of(" \t\r\n");
  return first == std::string::npos ? "" : s.substr(first, s.find_last_not_of(" \t\r\n") - first + 1);
}
bool starts_with(const std::string& s, const char* with) { return s.rfind(with, 0) == 0; }
std::string without_comments(const std::string& text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text.compare(i, 2, "//") == 0) i = std::min(text.find('\n', i), text.size() - 1);
    if (text.compare(i, 2, "/*") == 0) fail("comments of this kind are not known");
    result += text[i];
  }
  return result;
}
// At commas outside braces.
Strings split(const std::string& s) {
  Strings parts{""};
  int depth = 0;
  for (const char c : s) {
    depth += (c == '{') - (c == '}');
    if (c == ',' && depth == 0)
      parts.emplace_back();
    else
      parts.back() += c;
  }
  for (std::string& part : parts) part = trimmed(part);
  return parts.size() == 1 && parts[0].empty() ? Strings{} : parts;
}

struct Kernel {
  std::map<std::string, S64> params;  // offsets
  S64 params_bytes = 0;
  std::map<std::string, int> registers;
  std::vector<Word> initial;
  std::map<std::string, std::size_t> labels;
  std::vector<Instruction> code;
  std::vector<std::pair<std::size_t, std::string>> branches;
  U32 max_threads = 1024;

  int slot(const std::string& name, Word value) {
    const auto [it, fresh] = registers.emplace(name, int(initial.size()));
    if (fresh) initial.push_back(value);
    return it->second;
  }

  // ".param .align 8 .b8 name[48]" or ".param .u64 name".
  void add_param(const std::string& text) {
    static const std::map<std::string, S64> sizes{{".u64", 8}, {".b64", 8}, {".f64", 8}, {".u32", 4},
                                                  {".b32", 4}, {".f32", 4}, {".b8", 1}};
    S64 align = 0, size = 0;
    std::string name, word;
    Strings words;
    for (std::size_t i = 0; i <= text.size(); ++i) {
      if (i < text.size() && !std::isspace(static_cast<unsigned char>(text[i]))) {
        word += text[i];
      } else if (!word.empty()) {
        words.push_back(word);
        word.clear();
      }
    }
    for (std::size_t i = 0; i < words.size(); ++i) {
      if (words[i] == ".param" || words[i] == ".ptr") continue;
      if (words[i] == ".align" && i + 1 < words.size())
        align = std::stoll(words[++i]);
      else if (const auto it = sizes.find(words[i]); it != sizes.end())
        size = it->second;
      else if (words[i][0] == '.' || !name.empty())
        fail("parameter '" + text + "' is not known");
      else
        name = words[i];
    }
    const auto bracket = name.find('[');
    const S64 unit = align > size ? align : size;
    if (bracket != std::string::npos) {
      size *= std::stoll(name.substr(bracket + 1));
      name.resize(bracket);
    }
    if (!unit || name.empty()) fail("parameter '" + text + "' is not known");
    params_bytes = (params_bytes + unit - 1) / unit * unit;
    params[name] = params_bytes;
    params_bytes += size;
  }

  // ".reg .f32 %f<387>"
  void declare(const std::string& text) {
    const auto percent = text.find('%'), open = text.find('<');
    if (percent == std::string::npos || open == std::string::npos) fail("'" + text + "' is not known");
    const std::string name = text.substr(percent, open - percent);
    const int n = std::stoi(text.substr(open + 1));
    for (int i = 0; i < n; ++i)
      slot(name + std::to_string(i), 0xC0FFEE0BADF00D00u + Word(i) * 0x9E3779B97F4A7C15u);
  }

  int operand(const std::string& s) {
    static const char* const special[] = {"%tid.x", "%ntid.x", "%ctaid.x", "%nctaid.x"};
    for (const char* name : special)
      if (s == name) return slot(s, 0);
    if (s[0] == '%') {
      const auto it = registers.find(s);
      if (it == registers.end()) fail("register " + s + " is not known");
      return it->second;
    }
    if (const auto it = params.find(s); it != params.end()) return slot(s, kParams + Word(it->second));
    if (s.find_first_not_of("-0123456789abcdefxABCDEF") != std::string::npos)
      fail("operand " + s + " is not known");
    std::size_t end = 0;
    Word value;
    if (starts_with(s, "0f") || starts_with(s, "0d")) {
      value = std::stoull(s.substr(2), &end, 16);
      end += 2;
      if (s.size() != (s[1] == 'f' ? 10u : 18u)) end = 0;
    } else {
      value = s[0] == '-' ? Word(std::stoll(s, &end, 0)) : Word(std::stoull(s, &end, 0));
    }
    if (end != s.size()) fail("operand " + s + " is not known");
    return slot("constant " + s, value);
  }
  // One operand, or those between braces.
  int operands(const std::string& s, int (&to)[4]) {
    if (s.empty()) fail("an operand is missing");
    if (s.front() != '{') {
      to[0] = operand(s);
      return 1;
    }
    if (s.back() != '}') fail("operand " + s + " is not known");
    const Strings parts = split(s.substr(1, s.size() - 2));
    if (parts.empty() || parts.size() > 4) fail("operand " + s + " is not known");
    for (std::size_t i = 0; i < parts.size(); ++i) to[i] = operand(parts[i]);
    return int(parts.size());
  }
  // "[%rd1+16]" or "[name_param_3+8]".
  void address(const std::string& s, Instruction& i) {
    if (s.size() < 3 || s.front() != '[' || s.back() != ']') fail("address " + s + " is not known");
    std::string base = s.substr(1, s.size() - 2);
    if (const auto plus = base.find('+'); plus != std::string::npos) {
      i.offset = std::stoll(base.substr(plus + 1), nullptr, 0);
      base.resize(plus);
    }
    i.a[0] = operand(base);
  }

  void move_memory(const std::string& opcode, const Strings& o, Instruction& i) {
    struct Access {
      Run param, load, store;
      int size;
    };
    static const std::map<std::string, Access> types{{"f32", {load_param<U32>, load<U32>, store<U32>, 4}},
                                                     {"f64", {load_param<U64>, load<U64>, store<U64>, 8}},
                                                     {"b32", {load_param<U32>, load<U32>, store<U32>, 4}},
                                                     {"b64", {load_param<U64>, load<U64>, store<U64>, 8}},
                                                     {"u32", {load_param<U32>, load<U32>, store<U32>, 4}},
                                                     {"u64", {load_param<U64>, load<U64>, store<U64>, 8}},
                                                     {"u16", {load_param<U16>, load<U16>, store<U16>, 2}},
                                                     {"b16", {load_param<U16>, load<U16>, store<U16>, 2}},
                                                     {"u8", {load_param<U8>, load<U8>, store<U8>, 1}}};
    const bool of_param = starts_with(opcode, "ld.param."), is_load = starts_with(opcode, "ld.global.");
    if (o.size() != 2 || !(of_param || is_load || starts_with(opcode, "st.global.")))
      fail("instruction " + opcode + " is not known");
    std::string rest = opcode.substr(of_param ? 9 : 10);
    int width = 1;
    if (starts_with(rest, "v2.") || starts_with(rest, "v4.")) {
      width = rest[1] - '0';
      rest = rest.substr(3);
    }
    const auto it = types.find(rest);
    if (it == types.end()) fail("instruction " + opcode + " is not known");
    i.run = of_param ? it->second.param : is_load ? it->second.load : it->second.store;
    const bool is_store = !of_param && !is_load;
    i.count = operands(o[is_store ? 1 : 0], i.d);
    if (i.count != width) fail(opcode + " has " + std::to_string(i.count) + " elements");
    address(o[is_store ? 0 : 1], i);
  }

  void add(std::string text) {
    Instruction i;
    if (text[0] == '@') {
      const auto space = text.find(' ');
      std::string guard = text.substr(1, space - 1);
      if ((i.negated = guard[0] == '!')) guard = guard.substr(1);
      i.guard = operand(guard);
      text = trimmed(text.substr(space));
    }
    const auto space = text.find_first_of(" \t");
    const std::string opcode = text.substr(0, space);
    const Strings o = split(space == std::string::npos ? "" : text.substr(space));
    if (opcode == "ret" && o.empty()) {
      i.kind = Kind::end;
    } else if ((opcode == "bra" || opcode == "bra.uni") && o.size() == 1) {
      i.kind = Kind::branch;
      branches.emplace_back(code.size(), o[0]);
    } else if (starts_with(opcode, "ld.") || starts_with(opcode, "st.")) {
      move_memory(opcode, o, i);
    } else if (starts_with(opcode, "mov.b") && o.size() == 2 && (o[0][0] == '{' || o[1][0] == '{')) {
      const bool wide = opcode == "mov.b64";
      if (!wide && opcode != "mov.b32") fail("instruction " + opcode + " is not known");
      const int to = operands(o[0], i.d), from = operands(o[1], i.a);
      if (to + from != 3) fail("instruction " + text + " is not known");
      i.run = to == 1 ? (wide ? pack<U32, U64> : pack<U16, U32>)
                      : (wide ? unpack<U32, U64> : unpack<U16, U32>);
    } else {
      const auto it = known().find(opcode);
      if (it == known().end()) fail("instruction " + opcode + " is not known");
      if (o.size() != std::size_t(it->second.operands) + 1) fail("operands of " + text + " are not known");
      i.run = it->second.run;
      i.d[0] = operand(o[0]);
      for (std::size_t k = 1; k < o.size(); ++k) i.a[k - 1] = operand(o[k]);
    }
    code.push_back(i);
  }

  void resolve() {
    for (const auto& [at, label] : branches) {
      const auto it = labels.find(label);
      if (it == labels.end()) fail("label " + label + " is not known");
      code[at].target = it->second;
    }
    if (code.empty() || code.back().kind != Kind::end) fail("a kernel does not end with ret");
  }

  void run(Thread& t, std::size_t most) const {
    std::size_t at = 0;
    for (std::size_t done = 0; done < most; ++done) {
      const Instruction& i = code[at++];
      if (i.guard >= 0 && t.get<bool>(i.guard) == i.negated) continue;
      if (i.kind == Kind::end) return;
      if (i.kind == Kind::branch)
        at = i.target;
      else
        i.run(t, i);
    }
    fail("a thread does not end");
  }
};

struct Module {
  std::map<std::string, Kernel> kernels;
  std::string names;

  explicit Module(const std::string& commented) {
    const std::string text = without_comments(commented);
    std::size_t at = 0;
    const auto until = [&](const char* ends) {
      const std::size_t end = text.find_first_of(ends, at);
      if (end == std::string::npos) fail("the text ends in the middle of a statement");
      const std::string part = trimmed(text.substr(at, end - at));
      at = end + 1;
      return part;
    };
    for (const char* directive : {".version", ".target", ".address_size"}) {
      at = text.find_first_not_of(" \t\r\n", at);
      if (at == std::string::npos || text.compare(at, std::strlen(directive), directive) != 0)
        fail(std::string(directive) + " is missing");
      until("\n");
    }
    while ((at = text.find_first_not_of(" \t\r\n", at)) != std::string::npos) {
      std::string head = until("(;{");
      for (const char* linkage : {".visible ", ".weak "})
        if (starts_with(head, linkage)) head = trimmed(head.substr(std::strlen(linkage)));
      if (!starts_with(head, ".entry ") || text[at - 1] != '(') fail("'" + head + "' is not known");
      Kernel kernel;
      for (const std::string& param : split(until(")"))) kernel.add_param(param);
      std::string attributes = until("{");
      if (const auto blocks = attributes.find("\n.minnctapersm 1"); blocks != std::string::npos)
        attributes.resize(blocks);  // for ptxas only
      if (!starts_with(attributes, ".maxntid ") || attributes.find('\n') != std::string::npos)
        fail("'" + attributes + "' is not known");
      kernel.max_threads = U32(std::stoul(attributes.substr(9)));
      body(kernel, until);
      kernel.resolve();
      const std::string name = trimmed(head.substr(7));
      names += name + "\n";
      kernels.emplace(name, std::move(kernel));
    }
  }

 private:
  // Statements up to the closing brace; labels before them.
  template <class Until> void body(Kernel& kernel, const Until& until) {
    for (std::string s = statement(kernel, until); s != "}"; s = statement(kernel, until)) {
      if (starts_with(s, ".reg "))
        kernel.declare(s);
      else if (starts_with(s, ".pragma "))
        continue;  // advice
      else if (s.empty() || s[0] == '.')
        fail("'" + s + "' is not known");
      else
        kernel.add(s);
    }
  }
  // A statement without its labels; "}" at the end. Braces around operands belong to a statement.
  template <class Until> std::string statement(Kernel& kernel, const Until& until) {
    std::string s = until(";}");
    for (auto colon = s.find(':'); colon != std::string::npos; colon = s.find(':')) {
      const std::string label = trimmed(s.substr(0, colon));
      if (label.empty() || label[0] != '$') fail("'" + s + "' is not known");
      kernel.labels[label] = kernel.code.size();
      s = trimmed(s.substr(colon + 1));
    }
    while (s.find('{') != std::string::npos && s.find('}') == std::string::npos) s += "}" + until(";}");
    return s.empty() ? "}" : s;
  }
};

}  // namespace

extern "C" {

struct Launch {
  U64 grid, first_block, blocks;  // of the grid, the blocks that run
  U64 threads;
  const unsigned char* params;
  U64 params_bytes;
  const Window* windows;
  U64 n_windows;
};

void* ptx_load(const char* text, char* error, std::size_t room) {
  try {
    return new Module(text);
  } catch (const std::exception& e) {
    std::snprintf(error, room, "%s", e.what());
    return nullptr;
  }
}
void ptx_free(void* module) { delete static_cast<Module*>(module); }
const char* ptx_names(const void* module) { return static_cast<const Module*>(module)->names.c_str(); }

// How many bytes of parameters a kernel takes; 0: there is no such kernel.
U64 ptx_params_bytes(const void* module, const char* name) {
  const auto& kernels = static_cast<const Module*>(module)->kernels;
  const auto it = kernels.find(name);
  return it == kernels.end() ? 0 : U64(it->second.params_bytes);
}

// Threads of the blocks, one after the other. Adds to wide the accesses of 16 bytes, to narrow the others. False:
// error says why.
bool ptx_run(const void* module, const char* name, const Launch* launch, U64* wide, U64* narrow, char* error,
             std::size_t room) {
  try {
    const auto& kernels = static_cast<const Module*>(module)->kernels;
    const auto it = kernels.find(name);
    if (it == kernels.end()) fail("no such kernel");
    const Kernel& kernel = it->second;
    if (launch->params_bytes != U64(kernel.params_bytes))
      fail("takes " + std::to_string(kernel.params_bytes) + " bytes of parameters, got " +
           std::to_string(launch->params_bytes));
    if (launch->threads > kernel.max_threads) fail("more threads than the kernel takes");
    Thread t{{}, launch->params, launch->params_bytes, launch->windows, std::size_t(launch->n_windows)};
    const auto set = [&](const char* special, U64 value) {
      if (const auto r = kernel.registers.find(special); r != kernel.registers.end())
        t.registers[std::size_t(r->second)] = value;
    };
    for (U64 b = launch->first_block; b < launch->first_block + launch->blocks; ++b)
      for (U64 i = 0; i < launch->threads; ++i) {
        t.registers = kernel.initial;
        set("%tid.x", i);
        set("%ntid.x", launch->threads);
        set("%ctaid.x", b);
        set("%nctaid.x", launch->grid);
        kernel.run(t, 50'000'000);
      }
    for (std::size_t bytes = 0; bytes < 17; ++bytes) (bytes == 16 ? *wide : *narrow) += t.accesses[bytes];
    return true;
  } catch (const std::exception& e) {
    std::snprintf(error, room, "%s: %s", name, e.what());
    return false;
  }
}
}
