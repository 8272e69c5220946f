#include "engine/program.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "engine/float_mode.hpp"

namespace fastmap {
namespace {

constexpr const char* kStorageNames[kStorages] = {"float32", "float64", "bfloat16", "float16"};
constexpr std::size_t kKeptRows = 1024;

// Between two bounds the maps compute in their own format: bounds beyond `largest`, whose differences overflow, and
// widths below `narrowest`, whose squares and reciprocals leave it, are refused.
struct BoundLimits {
  double largest, narrowest;
};
constexpr BoundLimits kBoundLimits[kDTypes] = {{0x1p120, 0x1p-80}, {0x1p1000, 0x1p-800}};

std::string shown(double v) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", v);
  return text;
}

// The parameters as kernels use them: rounded once to the dtype they compute in, bounds inwards to what the
// buffers hold.
Params effective_params(const MapInfo& info, Storage storage, const Params& params) {
  Params r{};
  int lower = -1;
  for (int i = 0; i < info.n_params; ++i) {
    const ParamInfo& param = info.params[i];
    const bool is_lower = param.constraint == Constraint::lower_bound ||
                          param.constraint == Constraint::positive_lower_bound;
    const bool is_upper = param.constraint == Constraint::upper_bound;
    double v = params[i];
    const auto refuse = [&](const std::string& why) {
      throw std::invalid_argument(std::string(info.name) + ": " + param.name + " " + why + ", got " +
                                  shown(params[i]));
    };
    const bool unbounded = info.one_bound && std::isinf(v) && ((is_lower && v < 0) || (is_upper && v > 0));
    if (!std::isfinite(v) && !unbounded) refuse("must be finite");
    if (is_lower) v = round_inwards(v, storage, true);
    if (is_upper) v = round_inwards(v, storage, false);
    if (storage != kStoredFloat64) v = double(float(v));
    if (!std::isfinite(v) && !unbounded) refuse(std::string("overflows ") + kStorageNames[storage]);
    const bool positive = param.constraint == Constraint::positive ||
                          param.constraint == Constraint::positive_lower_bound;
    if (positive && !(v > 0)) refuse("must be positive");
    if (param.constraint == Constraint::nonzero && v == 0) refuse("must not be zero");
    if (is_lower) lower = i;
    if (is_upper && !(r[lower] < v)) refuse("must be above low = " + shown(params[lower]) + " in this dtype");
    if (is_upper && std::isfinite(v) && std::isfinite(r[lower])) {
      const BoundLimits limits = kBoundLimits[dtype_of(storage)];
      if (std::max(std::fabs(r[lower]), std::fabs(v)) > limits.largest)
        refuse("and low = " + shown(params[lower]) + " must be within +-" + shown(limits.largest) +
               " in this dtype");
      if (v - r[lower] < limits.narrowest)
        refuse("must be above low = " + shown(params[lower]) + " by " + shown(limits.narrowest) +
               " in this dtype");
    }
    r[i] = v;
  }
  return r;
}

void append(Row& row, int map, bool inverted, DType dtype, const Params& params) {
  Step step{map, &active_isa().maps[map]->kernels[dtype], inverted, {}};
  step.kernels->prepare(params.data(), step.args);
  row.push_back(step);
}

bool is_bounded(const MapInfo& info, const Params& p) {
  return !info.one_bound || (std::isfinite(p[0]) && std::isfinite(p[1]));
}

// One elementary map; where a bound is infinite, what is left of it.
void append_bounded(Row& row, int map, bool inverted, DType dtype, const Params& p) {
  const MapInfo& info = map_info(map);
  if (is_bounded(info, p)) return append(row, map, inverted, dtype, p);
  if (std::isfinite(p[0])) return append(row, find_map(info.one_bound), inverted, dtype, {p[0]});
  if (!std::isfinite(p[1])) return append(row, find_map("identity"), inverted, dtype, {});
  const int negation = find_map("affine");  // with scale -1: exact, its own inverse, here at both ends
  append(row, negation, false, dtype, {0, -1});
  append(row, find_map(info.one_bound), inverted, dtype, {-p[1]});
  append(row, negation, false, dtype, {0, -1});
}

std::string index_text(std::size_t i, const std::vector<std::size_t>& shape) {
  std::string text;
  for (std::size_t d = shape.size(); d-- > 0; i /= shape[d])
    text = std::to_string(i % shape[d]) + (text.empty() ? "" : ", ") + text;
  return shape.empty() ? "" : " at index (" + text + ")";
}

// Floats as unsigned integers in the same order, and back.
template <class U, class T> U place(T x) {
  constexpr U sign = ~(~U(0) >> 1);
  U i;
  std::memcpy(&i, &x, sizeof x);
  return i & sign ? ~i : i | sign;
}
template <class T, class U> T number(U place) {
  constexpr U sign = ~(~U(0) >> 1);
  const U i = place & sign ? place ^ sign : ~place;
  T x;
  std::memcpy(&x, &i, sizeof x);
  return x;
}

// The last number from `inside` to `end` whose image is finite, by bisection.
template <class T> T last_finite(const Step& step, Op op, T inside, T end) {
  using U = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  const auto is_finite = [&](T x) {
    T y;
    step.kernels->exact[op](&x, &y, 1, step.args);
    return std::isfinite(y);
  };
  U yes = place<U>(inside), no = place<U>(end);
  if (is_finite(end)) return end;
  for (U half; (half = (no > yes ? no - yes : yes - no) / 2) > 0;) {
    const U middle = no > yes ? yes + half : yes - half;
    (is_finite(number<T>(middle)) ? yes : no) = middle;
  }
  return number<T>(yes);
}

// What passes a check; for the policy "clip" only what has a finite result where it is the first input of a call, in the
// numbers that buffers hold.
template <class T> Range valid_range(const Step& step, Storage storage, Check check, bool clips) {
  const MapKernels& kernels = *step.kernels;
  const bool is_theta = check == kThetaInside || check == kThetaOnClosure;
  Range r;
  (is_theta ? kernels.theta_range : kernels.z_range)(step.args, &r.low, &r.high);
  if (check == kThetaInside || check == kZInside) {
    const T inside = T(std::isinf(r.low)
                           ? (std::isinf(r.high) ? 0 : r.high - std::abs(r.high) - 1)
                           : (std::isinf(r.high) ? r.low + std::abs(r.low) + 1 : r.low / 2 + r.high / 2));
    for (double* end : {&r.low, &r.high}) {
      T last = T(*end);
      if (!kernels.all_valid[check](&last, 1, step.args)) last = std::nextafter(last, inside);
      *end = double(clips ? last_finite(step, is_theta ? kForward : kInverse, inside, last) : last);
    }
  }
  if (clips) r = {round_inwards(r.low, storage, true), round_inwards(r.high, storage, false)};
  return r;
}

// What is left over after whole multiples of kLanes is computed apart, filled up with its last element.
bool fast(const Step& step, Storage storage, Op native, const void* x, void* out, std::size_t n,
          bool stream) {
  const FastKernel kernel = step.kernels->fast[native];
  const std::size_t size = compute_size(storage), rest = n % kLanes * size, whole = n * size - rest;
  bool unusual = whole && kernel(x, out, n - n % kLanes, step.args, stream);
  if (rest == 0 || unusual) return !unusual;
  alignas(64) unsigned char last[kLanes * 8], result[kLanes * 8];
  std::memcpy(last, static_cast<const char*>(x) + whole, rest);
  for (std::size_t i = rest; i < kLanes * size; i += size) std::memcpy(last + i, last + i - size, size);
  unusual = kernel(last, result, kLanes, step.args, false);
  std::memcpy(static_cast<char*>(out) + whole, result, rest);
  return !unusual;
}

void exact(const Step& step, Storage storage, Op native, const void* x, void* out, std::size_t n,
           bool stream) {
  alignas(64) unsigned char result[kSumBlock * 8];
  step.kernels->exact[native](x, stream ? result : out, n, step.args);
  if (stream) active_isa().engine->stream(result, out, n * compute_size(storage), x);
}

// Whether all x are valid and, for the first input of a call, have a finite value.
template <class T>
bool all_stay(const Step& step, Storage storage, Check check, const void* x, std::size_t n) {
  if (!step.kernels->all_valid[check](x, n, step.args)) return false;
  if (check != kThetaInside && check != kZInside) return true;
  const Op value = check == kThetaInside ? kForward : kInverse;
  alignas(64) T y[kSumBlock];
  if (!fast(step, storage, value, x, y, n, false)) exact(step, storage, value, x, y, n, false);
  return std::all_of(y, y + n, [](T v) { return std::isfinite(v); });
}

// As "clip" has it: what does not stay goes to the nearest number that does, whoever its neighbours are.
template <class T> void clip(const Step& step, Storage storage, Op native, Check check, const void* x,
                             void* out, std::size_t n, bool stream) {
  const Range r = valid_range<T>(step, storage, check, true);
  alignas(64) T clipped[kSumBlock];
  active_isa().engine->clip[dtype_of(storage)](x, clipped, n, r.low, r.high);
  exact(step, storage, native, clipped, out, n, stream);
}

bool run(const Step& step, Storage storage, Op op, bool to_search_space, const void* x, void* out,
         std::size_t n, Policy policy, bool stream = false) {
  const MapKernels& kernels = *step.kernels;
  const Op native = step.native(op);
  const Check check = check_of(native, to_search_space);
  const bool is_float = dtype_of(storage) == kFloat32;
  if (policy == Policy::clip || policy == Policy::nearest) {
    if (policy == Policy::clip && !kernels.all_valid[kNumber](x, n, step.args)) return false;
    if (!(is_float ? all_stay<float> : all_stay<double>)(step, storage, check, x, n)) {
      (is_float ? clip<float> : clip<double>)(step, storage, native, check, x, out, n, stream);
      return true;
    }
  }
  if (fast(step, storage, native, x, out, n, stream)) return true;
  if (policy == Policy::raise && !kernels.all_valid[check](x, n, step.args)) return false;
  exact(step, storage, native, x, out, n, stream);
  return true;
}

// With y the value before a step: derivatives multiply, log-derivatives add up, and the derivative of their sum
// is that of each term times the derivative of y.
bool compute_steps(const Row& row, Storage storage, Op op, const void* x, void* out, std::size_t n,
                   Policy policy, Scratch& scratch) {
  const EngineTable& engine = *active_isa().engine;
  const DType dtype = dtype_of(storage);
  const bool forward = op < kThetaOps;
  const Op value = forward ? kForward : kInverse, slope = forward ? kJacobian : kInverseJacobian;
  const bool is_value = op == value, is_slope = op == slope;
  const bool is_gradient = op == kLogAbsDetGrad || op == kInverseLogAbsDetGrad;
  for (std::size_t k = 0; k < row.size(); ++k) {
    const bool first = k == 0, last = k + 1 == row.size();
    const Step& step = row[forward ? k : row.size() - 1 - k];
    if (!is_value) {
      void* term = first ? out : scratch.term;
      if (!run(step, storage, op, forward, x, term, n, policy)) return false;
      if (is_gradient && !first) engine.multiply[dtype](term, scratch.product, term, n);
      if (!first) (is_slope ? engine.multiply : engine.add)[dtype](out, term, out, n);
      if (is_gradient && !last) {
        void* factor = first ? scratch.product : scratch.term;
        if (!run(step, storage, slope, forward, x, factor, n, policy)) return false;
        if (!first) engine.multiply[dtype](scratch.product, factor, scratch.product, n);
      }
      if (last) return true;
    }
    void* next = last ? out : scratch.values[k % 2];
    if (!run(step, storage, value, forward, x, next, n, policy)) return false;
    x = next;
  }
  return true;
}

}  // namespace

double round_inwards(double v, Storage storage, bool up) {
  if (storage == kStoredFloat64 || !std::isfinite(v)) return v;
  float f = float(v);
  if (up ? double(f) < v : double(f) > v) f = std::nextafterf(f, up ? INFINITY : -INFINITY);
  if (storage == kStoredFloat32) return double(f);
  const EngineTable& engine = *isas().front().engine;
  std::uint16_t h;
  engine.narrow[half_of(storage)](&f, &h, 1);
  float back;
  engine.widen[half_of(storage)](&h, &back, 1);
  if (up ? back < f : back > f) {  // the next one in that direction; away from zero the bits grow
    h = back == 0 ? std::uint16_t(up ? 1 : 0x8001) : std::uint16_t(h + ((back > 0) == up ? 1 : -1));
    engine.widen[half_of(storage)](&h, &back, 1);
  }
  return double(back);
}

Range range_of(const Step& step, Storage storage, Op op, bool to_search_space, bool clips) {
  const Check check = check_of(step.native(op), to_search_space);
  return dtype_of(storage) == kFloat32 ? valid_range<float>(step, storage, check, clips)
                                       : valid_range<double>(step, storage, check, clips);
}

Program::Program(std::vector<std::size_t> shape, std::vector<StepSpec> steps)
    : shape_(std::move(shape)), specs_(std::move(steps)) {
  for (const std::size_t length : shape_) rows_ *= length;
  longest_row_ = validate(kStoredFloat64);
}

Params Program::params(const StepSpec& spec, std::size_t i) const {
  Params result{};
  for (std::size_t p = 0; p < spec.params.size(); ++p) {
    const char* at = reinterpret_cast<const char*>(spec.params[p].data);
    std::size_t rest = i;
    for (std::size_t d = shape_.size(); d-- > 0; rest /= shape_[d])
      at += std::ptrdiff_t(rest % shape_[d]) * spec.params[p].strides[d];
    std::memcpy(&result[p], at, sizeof(double));
  }
  return result;
}

std::size_t Program::validate(Storage storage) const {
  FloatMode mode;  // rounds to the dtype
  std::size_t longest = 0;
  for (std::size_t i = 0; i < rows_; ++i) {
    std::size_t steps = 0;
    try {
      for (const StepSpec& spec : specs_) {
        const MapInfo& info = map_info(spec.map);
        steps += is_bounded(info, effective_params(info, storage, params(spec, i))) ? 1 : 3;
      }
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument(error.what() + index_text(i, shape_));
    }
    longest = std::max(longest, steps);
  }
  return longest;
}

void Program::check(Storage storage) const {
  std::call_once(checked_[storage], [&] {
    if (storage != kStoredFloat64) validate(storage);  // the constructor has seen to that one
    if (rows_ > kKeptRows) return;
    FloatMode mode;
    std::vector<Row> kept(rows_);
    for (std::size_t i = 0; i < rows_; ++i) kept[i] = build(storage, i);
    kept_[storage] = std::move(kept);
  });
}

const Row& Program::row(Storage storage, std::size_t i, Row& scratch) const {
  if (rows_ <= kKeptRows) return kept_[storage][i];
  scratch = build(storage, i);
  return scratch;
}

Row Program::build(Storage storage, std::size_t i) const {
  Row row;
  for (const StepSpec& spec : specs_)
    append_bounded(row, spec.map, spec.inverted, dtype_of(storage),
                   effective_params(map_info(spec.map), storage, params(spec, i)));
  return row;
}

bool compute(const Row& row, Storage storage, Op op, const void* x, void* out, std::size_t n, Policy policy,
             Scratch& scratch, bool stream) {
  if (row.size() == 1) return run(row[0], storage, op, op < kThetaOps, x, out, n, policy, stream);
  return compute_steps(row, storage, op, x, out, n, policy, scratch);
}

void mark_refused(const Row& row, Storage storage, Op op, const void* x, std::size_t n, Policy policy,
                  unsigned char* refused, Scratch& scratch) {
  const bool forward = op < kThetaOps;
  const Op value = forward ? kForward : kInverse;
  const std::size_t size = compute_size(storage);
  std::memset(refused, 0, n);
  for (std::size_t k = 0; k < row.size(); ++k) {
    const Step& step = row[forward ? k : row.size() - 1 - k];
    const Check check = policy == Policy::clip ? kNumber : check_of(step.native(value), forward);
    if (!step.kernels->all_valid[check](x, n, step.args))
      for (std::size_t i = 0; i < n; ++i)
        refused[i] |= !step.kernels->all_valid[check](static_cast<const char*>(x) + i * size, 1, step.args);
    // Clipped values stay numbers on their way.
    if (k + 1 == row.size() || policy == Policy::clip) return;
    void* next = scratch.values[k % 2];
    run(step, storage, value, forward, x, next, n, Policy::nan);
    x = next;
  }
}

}  // namespace fastmap
