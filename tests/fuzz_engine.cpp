// Calls of the engine that libFuzzer makes up, under ASan and UBSan: maps, parameters, operations, policies, dtypes,
// shapes, strides, offsets, memory in place or not, numbers of threads. The first instruction set must give what it
// gives for one element or row alone; every other one that this processor has must give the same bits; and
// nothing may be read or written beside the elements. How to run it: CONTRIBUTING.md.
#include <fuzzer/FuzzedDataProvider.h>

// The engine takes the kernels of active_isa(): here the one under test.
#define active_isa isa_of_the_environment
#include "engine/isa.cpp"
#undef active_isa

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "engine/dispatch.hpp"
#include "engine/step.hpp"
#include "engine/threads.hpp"
#include "structured/dispatch.hpp"

namespace fastmap {
const Isa* under_test = nullptr;
const Isa& active_isa();
const Isa& active_isa() { return *under_test; }
}  // namespace fastmap

namespace {

using namespace fastmap;
using Bytes = std::vector<unsigned char>;
using Input = FuzzedDataProvider;

constexpr std::size_t kMostElements = 12000;  // more than begin to be streamed (blocks.hpp)
constexpr std::size_t kMostAlone = 64;        // elements of a call that are computed again, alone

std::size_t pick(Input& in, std::size_t n) { return in.ConsumeIntegralInRange<std::size_t>(0, n - 1); }

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "%s: %s\n", active_isa().name, what);
  std::abort();
}

// --- Maps ----------------------------------------------------------------------------------------

// The steps of a program, and their parameters: one number each, or one per row of the program.
struct Maps {
  struct One {
    int map;
    bool inverted;
    std::vector<std::vector<double>> params;
  };
  std::vector<std::size_t> shape;
  std::vector<One> steps;

  Program program() const {
    std::vector<StepSpec> specs;
    for (const One& one : steps) {
      StepSpec spec{one.map, one.inverted, {}};
      for (const std::vector<double>& values : one.params) {
        std::vector<std::ptrdiff_t> strides(shape.size(), 0);
        std::ptrdiff_t stride = values.size() > 1 ? sizeof(double) : 0;
        for (std::size_t d = shape.size(); d-- > 0; stride *= std::ptrdiff_t(shape[d])) strides[d] = stride;
        spec.params.push_back({values.data(), strides});
      }
      specs.push_back(std::move(spec));
    }
    return Program(shape, std::move(specs));
  }
  Maps of_row(std::size_t row) const {
    Maps maps{{}, steps};
    for (One& one : maps.steps)
      for (std::vector<double>& values : one.params) values = {values[values.size() > 1 ? row : 0]};
    return maps;
  }
};

// Published parameters, now and then with an infinite bound or with any number at all.
Maps::One one_map(Input& in, std::size_t rows) {
  Maps::One one{int(pick(in, map_count())), in.ConsumeBool(), {}};
  const MapInfo& info = map_info(one.map);
  const std::size_t example = pick(in, std::size_t(info.n_examples));
  const bool varies = in.ConsumeBool();
  for (int p = 0; p < info.n_params; ++p) {
    std::vector<double> values(varies ? std::max<std::size_t>(rows, 1) : 1);
    for (std::size_t r = 0; r < values.size(); ++r)
      values[r] = info.examples[(example + r) % std::size_t(info.n_examples)][p];
    const std::size_t other = pick(in, 16);
    double& value = values[pick(in, values.size())];
    if (other == 1) value = info.params[p].constraint == Constraint::upper_bound ? INFINITY : -INFINITY;
    if (other == 2) value = in.ConsumeFloatingPointInRange<double>(-4, 4);
    if (other == 3) {
      const std::uint64_t bits = in.ConsumeIntegral<std::uint64_t>();
      std::memcpy(&value, &bits, sizeof value);
    }
    one.params.push_back(std::move(values));
  }
  return one;
}

Maps some_maps(Input& in, const std::vector<std::size_t>& lengths) {
  Maps maps;
  std::size_t rows = 1;
  for (const std::size_t length : lengths) {
    maps.shape.push_back(in.ConsumeBool() ? length : 1);
    rows *= maps.shape.back();
  }
  for (std::size_t n = 1 + pick(in, 8) / 5 * pick(in, 3); n > 0; --n) maps.steps.push_back(one_map(in, rows));
  return maps;
}

// --- Memory --------------------------------------------------------------------------------------

// Memory of one operand that ends where its last element ends, so that ASan sees a step beyond.
struct Memory {
  std::vector<std::ptrdiff_t> strides;
  std::size_t start = 0, item = 0;
  Bytes bytes;

  char* data() { return reinterpret_cast<char*>(bytes.data()) + start; }
};

std::vector<std::size_t> some_lengths(Input& in, std::size_t most_dims) {
  std::vector<std::size_t> lengths(pick(in, most_dims + 1));
  std::size_t most = in.ConsumeBool() ? 200 : kMostElements;
  for (std::size_t& length : lengths) {
    length = pick(in, most + 1);
    most /= std::max<std::size_t>(length, 1);
  }
  return lengths;
}

std::size_t product(const std::vector<std::size_t>& lengths) {
  return std::accumulate(lengths.begin(), lengths.end(), std::size_t(1), std::multiplies<>());
}

// Elements in any order of the dimensions, forwards or backwards; apart, or (an input) on each other.
Memory some_memory(Input& in, const std::vector<std::size_t>& lengths, std::size_t item, bool is_input) {
  Memory m;
  m.item = item;
  m.strides.resize(lengths.size());
  std::vector<std::size_t> order(lengths.size());
  std::iota(order.rbegin(), order.rend(), 0);
  if (in.ConsumeBool())
    std::rotate(order.begin(), order.begin() + std::ptrdiff_t(pick(in, order.size() + 1)), order.end());
  const bool gaps = pick(in, 4) == 0;
  std::ptrdiff_t stride = std::ptrdiff_t(item), low = 0, high = 0;
  for (const std::size_t d : order) {
    if (gaps) stride += std::ptrdiff_t(pick(in, 3) * item + (pick(in, 8) == 1 ? 1 : 0));
    const bool on_each_other = is_input && pick(in, 16) == 1;
    m.strides[d] = on_each_other ? 0 : gaps && in.ConsumeBool() ? -stride : stride;
    const std::ptrdiff_t reach = lengths[d] ? std::ptrdiff_t(lengths[d] - 1) * m.strides[d] : 0;
    (reach < 0 ? low : high) += reach;
    if (!on_each_other) stride *= std::ptrdiff_t(std::max<std::size_t>(lengths[d], 1));
  }
  const std::size_t lead = pick(in, 20) * item + (pick(in, 8) == 1 ? 1 + pick(in, item) : 0);
  const bool empty = product(lengths) == 0;
  m.start = empty ? lead : lead + std::size_t(-low);
  m.bytes.assign(empty ? lead : m.start + std::size_t(high) + item, 0xa5);
  return m;
}

// Where the element of a logical index lies in the bytes.
std::size_t position(const Memory& m, const std::vector<std::size_t>& lengths, std::size_t index) {
  std::ptrdiff_t at = std::ptrdiff_t(m.start);
  for (std::size_t d = lengths.size(); d-- > 0; index /= lengths[d])
    at += std::ptrdiff_t(index % lengths[d]) * m.strides[d];
  return std::size_t(at);
}

std::uint64_t stored(double value, Storage storage) {
  const auto f = float(value);
  std::uint64_t bits = 0;
  if (storage == kStoredFloat64)
    std::memcpy(&bits, &value, 8);
  else if (half_of(storage) < 0)
    std::memcpy(&bits, &f, 4);
  else
    isas().front().engine->narrow[half_of(storage)](&f, &bits, 1);
  return bits;
}

// Numbers of one kind, and a few whose bits are those of the input.
void fill(Input& in, Memory& m, const std::vector<std::size_t>& lengths, Storage storage) {
  const std::size_t n = product(lengths), kind = pick(in, 6);
  std::uint64_t state = in.ConsumeIntegral<std::uint8_t>() + 88172645463325252u;
  for (std::size_t i = 0; i < n; ++i) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    const double u = double(state >> 11) * 0x1p-53;  // in [0, 1)
    const double values[] = {u, 8 * u - 4, 200 * u - 100, 2 * u, std::exp2(2000 * u - 1000)};
    const std::uint64_t bits = kind < 5 ? stored(values[kind], storage) : state;
    std::memcpy(&m.bytes[position(m, lengths, i)], &bits, m.item);
  }
  for (std::size_t k = n ? pick(in, 6) : 0; k > 0; --k) {
    constexpr double special[] = {0,         -0.0, 1,        -1,        INFINITY,
                                  -INFINITY, NAN,  0x1p-149, 0x1p-1074, 0x1.fffffep127};
    const std::size_t which = pick(in, std::size(special) + 4);
    const std::uint64_t bits = which < std::size(special) ? stored(special[which], storage)
                                                          : in.ConsumeIntegral<std::uint64_t>();
    std::memcpy(&m.bytes[position(m, lengths, pick(in, n))], &bits, m.item);
  }
}

// Nothing but the elements of `m` has changed.
void require_gaps(const Memory& m, const Memory& before, const std::vector<std::size_t>& lengths) {
  Bytes restored = m.bytes;
  for (std::size_t i = 0, n = product(lengths); i < n; ++i) {
    const std::size_t at = position(m, lengths, i);
    std::memcpy(&restored[at], &before.bytes[at], m.item);
  }
  require(restored == before.bytes, "memory beside the elements has changed");
}

// --- Calls ---------------------------------------------------------------------------------------

// The operands of one call. `x` may be the memory of `out`, or `g` may.
struct Operands {
  std::vector<std::size_t> lengths;
  Maps maps;
  Storage storage;
  Memory memory[kOperands];
  Operand out_is = kOut;  // kX, kG: in place
  bool present[kOperands] = {};

  char* data(Operand o) { return present[o] ? memory[o == kOut ? out_is : o].data() : nullptr; }
  const Memory& of(Operand o) const { return memory[o == kOut ? out_is : o]; }
  Layout layout() {
    Layout l;
    std::ptrdiff_t row = 1;
    l.dims.resize(lengths.size());
    for (std::size_t d = lengths.size(); d-- > 0; row *= std::ptrdiff_t(maps.shape[d])) {
      l.dims[d] = {lengths[d], maps.shape[d] == 1 ? 0 : row, {}};
      for (int o = 0; o < kOperands; ++o)
        if (present[o]) l.dims[d].strides[o] = of(Operand(o)).strides[d];
    }
    for (int o = 0; o < kOperands; ++o) l.data[o] = data(Operand(o));
    return l;
  }
  std::size_t row(std::size_t index) {
    const Layout l = layout();
    return maps.program().rows() == 1 ? 0 : l.row(index);
  }
};

// What a call has done: `error` where its parameters were refused.
struct Outcome {
  Bytes bytes[kOperands];
  std::string error;
  Invalid invalid{};
  std::vector<double> sums;
};

template <class Call> void guarded(Outcome& outcome, const Call& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    outcome.error = error.what();
  }
}

bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0);
}

void require_same(const Outcome& a, const Outcome& b) {
  require(a.error == b.error, "another error");
  require(a.invalid.count == b.invalid.count && a.invalid.first == b.invalid.first, "others were refused");
  require(same_bits(a.sums, b.sums), "other sums");
  for (int o = 0; o < kOperands; ++o)
    require(a.invalid.count || a.bytes[o] == b.bytes[o],
            "other bits");  // what `out` holds is then not specified
}

// Runs the call with each instruction set on memory of its own, and returns what the first one did.
template <class Call, class Case>
Outcome on_all_isas(const Case& given, std::size_t threads, const Call& call) {
  Outcome first;
  for (const Isa& isa : isas()) {
    if (!isa.available) continue;
    under_test = &isa;
    set_num_threads(&isa == isas().data() ? 1 : int(threads));
    Case c = given;
    Outcome outcome;
    guarded(outcome, [&] { call(c, outcome); });
    for (int o = 0; o < kOperands; ++o) outcome.bytes[o] = std::move(c.memory[o].bytes);
    if (&isa == isas().data())
      first = std::move(outcome);
    else
      require_same(first, outcome);
  }
  under_test = isas().data();
  return first;
}

Memory operand(Input& in, const Operands& c, bool is_input) {
  return some_memory(in, c.lengths, stored_size(c.storage), is_input);
}

// Theta that the maps take, in place of x: the images of what is there.
void take_images(Operands& c) {
  const std::vector<std::ptrdiff_t>& strides = c.memory[kX].strides;
  if (std::count(strides.begin(), strides.end(), 0)) return;
  Operands copy = c;
  copy.present[kG] = false;
  copy.present[kOut] = true;
  copy.out_is = kX;
  Outcome images;
  guarded(images, [&] {
    const Program program = copy.maps.program();
    apply(kInverse, {{&program, c.storage, copy.layout()}}, Policy::nan);
  });
  if (images.error.empty()) c.memory[kX] = copy.memory[kX];
}

Operands some_operands(Input& in) {
  Operands c;
  c.storage = Storage(pick(in, kStorages));
  c.lengths = some_lengths(in, 3);
  c.maps = some_maps(in, c.lengths);
  const bool in_place = in.ConsumeBool();
  c.present[kX] = c.present[kOut] = true;
  c.memory[kX] = operand(in, c, !in_place);
  fill(in, c.memory[kX], c.lengths, c.storage);
  if (in_place)
    c.out_is = kX;
  else
    c.memory[kOut] = operand(in, c, false);
  return c;
}

void fuzz_apply(Input& in) {
  const Op op = Op(pick(in, kOps));
  const Policy policy = Policy(pick(in, 3));
  const std::size_t threads = 1 + pick(in, 3);
  Operands c = some_operands(in);
  c.present[kG] = in.ConsumeBool();
  if (c.present[kG]) {
    const bool in_place = c.out_is == kOut && in.ConsumeBool();
    c.memory[kG] = operand(in, c, !in_place);
    if (in_place) c.out_is = kG;
    fill(in, c.memory[kG], c.lengths, c.storage);
  }
  if (op < kThetaOps && in.ConsumeBool()) take_images(c);
  const Outcome all = on_all_isas(c, threads, [&](Operands& own, Outcome& outcome) {
    const Program program = own.maps.program();
    outcome.invalid = apply(op, {{&program, own.storage, own.layout()}}, policy);
  });
  Memory out = c.of(kOut);
  if (!all.error.empty() || (all.invalid.count && c.out_is != kOut))
    return require(all.bytes[c.out_is] == out.bytes, "written although it was refused");
  out.bytes = all.bytes[c.out_is];
  require_gaps(out, c.of(kOut), c.lengths);
  if (c.out_is != kX) require(all.bytes[kX] == c.memory[kX].bytes, "theta has changed");
  const std::size_t n = product(c.lengths);
  for (std::size_t i = 0; i < n && !all.invalid.count; i += n / kMostAlone + 1) {
    const Maps maps = c.maps.of_row(c.row(i));
    const Program program = maps.program();
    alignas(8) unsigned char alone[3][8] = {};
    Layout l;
    for (const Operand o : {kX, kG})
      if (c.present[o])
        std::memcpy(alone[o], &c.memory[o].bytes[position(c.memory[o], c.lengths, i)], out.item);
    for (const Operand o : {kX, kG, kOut})
      if (c.present[o]) l.data[o] = reinterpret_cast<char*>(alone[o]);
    require(apply(op, {{&program, c.storage, l}}, policy).count == 0, "refused alone");
    require(std::memcmp(alone[kOut], &out.bytes[position(out, c.lengths, i)], out.item) == 0,
            "other bits alone");
  }
}

// Sums over the last dimensions, on their own and beside the values: the bits of plain memory.
void fuzz_log_det(Input& in) {
  const bool of_theta = in.ConsumeBool();
  const Op op = of_theta ? kLogAbsDet : kInverseLogAbsDet, value_op = of_theta ? kForward : kInverse;
  const Policy policy = Policy(pick(in, 3));
  const std::size_t threads = 1 + pick(in, 3);
  Operands c = some_operands(in);
  c.present[kOut] = in.ConsumeBool();
  if (of_theta && in.ConsumeBool()) take_images(c);
  std::size_t rows = 1;
  for (std::size_t d = 0, kept = pick(in, c.lengths.size() + 1); d < kept; ++d) rows *= c.lengths[d];
  const auto call = [&](Operands& own, Outcome& outcome) {
    const Program program = own.maps.program();
    outcome.sums.resize(rows);
    outcome.invalid = log_det(op, {{&program, own.storage, own.layout()}}, rows, outcome.sums.data(),
                              value_op, policy);
  };
  const Outcome all = on_all_isas(c, threads, call);
  Operands plain = c;
  const std::size_t item = stored_size(c.storage), n = product(c.lengths);
  Memory& x = plain.memory[kX];
  x.start = 0;
  x.bytes.assign(n * item, 0);
  std::ptrdiff_t stride = std::ptrdiff_t(item);
  for (std::size_t d = c.lengths.size(); d-- > 0; stride *= std::ptrdiff_t(c.lengths[d]))
    x.strides[d] = stride;
  for (std::size_t i = 0; i < n; ++i)
    std::memcpy(&x.bytes[i * item], &c.memory[kX].bytes[position(c.memory[kX], c.lengths, i)], item);
  plain.present[kOut] = false;
  Outcome of_plain;
  guarded(of_plain, [&] { call(plain, of_plain); });
  require(of_plain.error == all.error && of_plain.invalid.count == all.invalid.count,
          "refused in other memory");
  if (all.invalid.count == 0) require(same_bits(of_plain.sums, all.sums), "other sums in other memory");
}

// --- Steps ---------------------------------------------------------------------------------------

StepGroup some_group(Input& in) {
  StepGroup g{
      Rule(pick(in, kRules)),        Gradient(pick(in, 3)), 1e-3, 1e3, Decay(pick(in, 3)), in.ConsumeBool(),
      in.ConsumeBool() ? 0.0 : 0.01, in.ConsumeBool(),      {}};
  g.args = {
      pick(in, 8) ? 0.01 : 0.0, pick(in, 4) ? 0.9 : 0.0, 0.99, 1e-8, pick(in, 4) ? 0.0 : 0.1, 1, 1, 1, false,
      pick(in, 4) == 0};
  return g;
}

struct StepCase : Operands {
  StepGroup group;
  Storage gradient, moments;
  std::vector<float> counts;         // of the rows of the first dimension, or of all
  std::vector<std::int64_t> chosen;  // rows that take part

  void take(Outcome& outcome, double factor) {
    const Program program = maps.program();
    StepTensor t{{&program, storage, layout()}, gradient, moments, &group, at_step(group.args, 4)};
    if (!lengths.empty() && !counts.empty()) {
      t.segment.layout.data[kCount] = reinterpret_cast<char*>(counts.data());
      t.segment.layout.dims[0].strides[kCount] = sizeof(float);
    }
    if (!chosen.empty()) {
      t.segment.layout.dims[0].chosen = chosen.data();
      t.segment.layout.dims[0].length = chosen.size();
    }
    outcome.sums = {sum_of_squares({t}, false), sum_of_squares({t}, true)};
    step({t}, factor);
  }
};

void fuzz_step(Input& in) {
  StepCase c;
  c.storage = Storage(pick(in, kStorages));
  c.lengths = some_lengths(in, 3);
  c.maps = some_maps(in, c.lengths);
  c.group = some_group(in);
  const std::size_t threads = 1 + pick(in, 3);
  const Storage computed = computed_in(c.storage);
  const bool may_be_half = computed == kStoredFloat32;
  c.gradient = may_be_half ? Storage((std::size_t[]){0, 2, 3}[pick(in, 3)]) : computed;
  c.moments = may_be_half && in.ConsumeBool() ? kStoredBFloat16 : computed;
  const int moments = c.group.rule == kAdam ? 2 : c.group.rule == kLion || c.group.args.beta1 != 0 ? 1 : 0;
  const Storage storages[] = {computed, c.gradient, c.storage, c.moments, c.moments};
  for (const Operand o : {kX, kG, kOut, kFirst, kSecond}) {
    if ((o == kFirst && moments < 1) || (o == kSecond && moments < 2)) continue;
    c.present[o] = true;
    c.memory[o] = some_memory(in, c.lengths, stored_size(storages[o]), o == kG);
    fill(in, c.memory[o], c.lengths, storages[o]);
  }
  if (c.group.rule == kSgd && moments == 0) c.group.args.nesterov = false;
  if (!c.lengths.empty() && c.lengths[0] && in.ConsumeBool()) {
    c.counts.resize(c.lengths[0]);
    for (std::size_t i = 0; i < c.counts.size(); ++i) c.counts[i] = float(i / 3 % 5);
    for (std::size_t i = 0, every = 1 + pick(in, 4); every > 1 && i < c.lengths[0]; i += every)
      c.chosen.push_back(std::int64_t(i));
  }
  const StepCase before = c;
  const Outcome all = on_all_isas(c, threads,
                                  [&](StepCase& own, Outcome& outcome) { own.take(outcome, 0.5); });
  for (const Operand o : {kX, kOut, kFirst, kSecond})
    if (c.present[o]) {
      Memory after = c.memory[o];
      after.bytes = all.bytes[o];
      require(all.error.empty() || after.bytes == before.memory[o].bytes, "written although it was refused");
      require_gaps(after, before.memory[o], c.lengths);
    }
  require(all.bytes[kG] == before.memory[kG].bytes, "the gradient has changed");
  const std::size_t n = product(c.lengths), inner = n ? n / (c.lengths.empty() ? 1 : c.lengths[0]) : 1;
  for (std::size_t i = 0; i < n && all.error.empty(); i += n / kMostAlone + 1) {
    const std::size_t first = i / inner;
    if (!c.chosen.empty() && !std::binary_search(c.chosen.begin(), c.chosen.end(), std::int64_t(first)))
      continue;
    const Maps maps = c.maps.of_row(c.row(i));
    const Program program = maps.program();
    const std::uint64_t number = c.counts.empty() ? 4 : std::uint64_t(c.counts[first]) + 1;
    StepTensor t{{&program, c.storage, {}}, c.gradient, c.moments, &c.group, at_step(c.group.args, number)};
    alignas(8) unsigned char alone[kOperands][8] = {};
    for (int o = 0; o < kOperands; ++o) {
      if (!c.present[o]) continue;
      std::memcpy(alone[o], &before.memory[o].bytes[position(c.memory[o], c.lengths, i)], c.memory[o].item);
      t.segment.layout.data[o] = reinterpret_cast<char*>(alone[o]);
    }
    step({t}, 0.5);
    for (const Operand o : {kX, kOut, kFirst, kSecond})
      if (c.present[o])
        require(
            std::memcmp(alone[o], &all.bytes[o][position(c.memory[o], c.lengths, i)], c.memory[o].item) == 0,
            "other bits of a step alone");
  }
}

// --- Structured maps -----------------------------------------------------------------------------

struct RowCase {
  Memory memory[kOperands];
  std::vector<double> grad_log_det, log_det;
};

void fuzz_rows(Input& in) {
  if (structured_count() == 0) return;
  RowCall call{};
  call.map = int(pick(in, structured_count()));
  const StructuredInfo& info = structured_info(call.map);
  call.op = RowOp(pick(in, kRowOps));
  call.tangent = in.ConsumeBool();
  call.dtype = DType(pick(in, kDTypes));
  call.n = info.least + pick(in, pick(in, 4) ? 5 : 60);
  call.leading = {pick(in, 40)};
  if (in.ConsumeBool()) call.leading.push_back(pick(in, 4));
  const std::size_t threads = 1 + pick(in, 3), rows = product(call.leading);
  const std::size_t item = call.dtype == kFloat32 ? 4 : 8;
  const bool x_is_theta = call.op == kRowForward || call.op == kRowForwardPullback;
  const bool is_pullback = call.op == kRowForwardPullback || call.op == kRowInversePullback;
  RowCase c;
  const auto add = [&](Operand o, bool is_theta, bool is_input) {
    std::vector<std::size_t> lengths = call.leading;
    for (int d = 0; d < (is_theta ? info.theta_axes : 1); ++d)
      lengths.push_back(is_theta ? call.n : z_size(info.z_size, call.n));
    c.memory[o] = some_memory(in, lengths, item, is_input);
    fill(in, c.memory[o], lengths, call.dtype == kFloat32 ? kStoredFloat32 : kStoredFloat64);
  };
  add(kX, x_is_theta, true);
  if (call.tangent) add(kFirst, x_is_theta, true);
  if (is_pullback) add(kG, !x_is_theta, true);
  add(kOut, x_is_theta == is_pullback, false);
  c.log_det.resize(rows);
  if (is_pullback && in.ConsumeBool()) c.grad_log_det.assign(rows, 0.5);
  const auto buffer = [&](Memory& m) -> RowBuffer {
    if (m.item == 0) return {};
    const auto split = m.strides.begin() + std::ptrdiff_t(call.leading.size());
    return {m.data(), {m.strides.begin(), split}, {split, m.strides.end()}};
  };
  const auto on = [&](RowCase& own) {
    RowCall mine = call;
    mine.x = buffer(own.memory[kX]), mine.direction = buffer(own.memory[kFirst]);
    mine.grad = buffer(own.memory[kG]), mine.out = buffer(own.memory[kOut]);
    mine.grad_log_det = own.grad_log_det.empty() ? nullptr : own.grad_log_det.data();
    mine.log_det = is_pullback ? nullptr : own.log_det.data();
    return mine;
  };
  const Outcome all = on_all_isas(c, threads, [&](RowCase& own, Outcome& outcome) {
    const RefusedRows refused = run_rows(on(own));
    outcome.sums = own.log_det;
    outcome.sums.push_back(double(refused.count));
  });
  for (const Operand o : {kX, kFirst, kG}) require(all.bytes[o] == c.memory[o].bytes, "an input has changed");
  RowCall alone = on(c);
  for (RowBuffer* b : {&alone.x, &alone.direction, &alone.grad, &alone.out}) b->leading.clear();
  alone.leading.clear();
  for (std::size_t r = 0; r < rows; ++r) {
    const std::pair<RowBuffer*, Operand> buffers[] = {
        {&alone.x, kX}, {&alone.direction, kFirst}, {&alone.grad, kG}, {&alone.out, kOut}};
    for (const auto& [b, o] : buffers)
      if (b->data)
        b->data = reinterpret_cast<char*>(&c.memory[o].bytes[position(c.memory[o], call.leading, r)]);
    if (!c.grad_log_det.empty()) alone.grad_log_det = &c.grad_log_det[r];
    if (!is_pullback) alone.log_det = &c.log_det[r];
    run_rows(alone);
  }
  require(c.memory[kOut].bytes == all.bytes[kOut], "other bits of a row alone");
  c.log_det.push_back(all.sums.back());
  require(same_bits(c.log_det, all.sums), "another log-determinant of a row alone");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  under_test = isas().data();
  Input in(data, size);
  constexpr void (*calls[])(Input&) = {fuzz_apply, fuzz_log_det, fuzz_step, fuzz_rows};
  calls[pick(in, std::size(calls))](in);
  return 0;
}
