// The only loops. Everything above is a formula for one lane, everything below works on blocks.
#pragma once

#include "engine/lane.hpp"
#include "engine/stream.hpp"
#include "rules/adam.hpp"

namespace fastmap::FM_ISA {

template <class Map, class T> const typename Map::template Args<T>& args_of(const ArgsBuffer& b) {
  static_assert(sizeof(typename Map::template Args<T>) <= sizeof(ArgsBuffer));
  return *reinterpret_cast<const typename Map::template Args<T>*>(b.bytes);
}

template <class Map, class T> void prepare(const double* params, ArgsBuffer& buffer) {
  *reinterpret_cast<typename Map::template Args<T>*>(buffer.bytes) = Map::template prepare<T>(params);
}

template <class Map, Check check, class T, class A> FM_INLINE bool is_valid(T x, const A& a) {
  if constexpr (check == kNumber) return x == x;
  constexpr bool is_theta = check == kThetaInside || check == kThetaOnClosure;
  const T low = is_theta ? a.low : z_low<T>(a, 0), high = is_theta ? a.high : z_high<T>(a, 0);
  if constexpr (check == kThetaOnClosure || check == kZOnClosure) return (x >= low) & (x <= high);
  if constexpr (Map::info.closed) return is_finite(x) & (x >= low) & (x <= high);
  return (x > low) & (x < high);
}

template <class Map, class T, Check check>
bool all_valid(const void* x_, std::size_t n, const ArgsBuffer& buffer) {
  const auto a = args_of<Map, T>(buffer);
  const T* x = static_cast<const T*>(x_);
  BitsOf<T> invalid = 0;
  for (std::size_t i = 0; i < n; ++i) invalid |= is_valid<Map, check>(x[i], a) ? 0 : 1;
  return invalid == 0;
}

template <class Map, class T> void theta_range(const ArgsBuffer& buffer, double* low, double* high) {
  const auto a = args_of<Map, T>(buffer);
  *low = double(a.low);
  *high = double(a.high);
}
template <class Map, class T> void z_range(const ArgsBuffer& buffer, double* low, double* high) {
  const auto a = args_of<Map, T>(buffer);
  *low = double(z_low<T>(a, 0));
  *high = double(z_high<T>(a, 0));
}

// How many vectors a loop computes side by side. The chain of a vector through one or two elementary functions is
// longer than the reorder buffer, so that the next iteration cannot start early; maps without such a chain say 1.
// Two where float is computed in double (`in_double`), of whose vectors that is four.
template <class Map> FM_INLINE constexpr auto vectors(int) -> decltype(Map::vectors) { return Map::vectors; }
template <class Map> FM_INLINE constexpr int vectors(long) { return 4; }
template <class Map, class T> FM_INLINE constexpr auto in_double(int)
    -> decltype(Map::template in_double<T>) {
  return Map::template in_double<T>;
}
template <class Map, class T> FM_INLINE constexpr bool in_double(long) { return false; }
// The narrowest type of a loop decides how many elements GCC takes at once: a flag of 8 bits among floats makes it
// four vectors, each statement four times in a row.
template <std::size_t size> struct UnsignedOf;
template <> struct UnsignedOf<1> {
  using type = std::uint8_t;
};
template <> struct UnsignedOf<2> {
  using type = std::uint16_t;
};
template <> struct UnsignedOf<4> {
  using type = std::uint32_t;
};
template <> struct UnsignedOf<8> {
  using type = std::uint64_t;
};
template <class T, int vectors> using Flag = typename UnsignedOf<sizeof(T) / vectors>::type;
// The derivatives of log-derivatives serve double backward: one vector, and a shorter build.
template <class Map, class T> constexpr int vectors_of(Op op) {
  if (op == kLogAbsDetGrad || op == kInverseLogAbsDetGrad) return 1;
  return in_double<Map, T>(0) ? 2 : vectors<Map>(0);
}

// Input is fetched and results are stored in step with the computation, which hides both ways of memory; a block that
// is computed first and stored then waits for each of them.
constexpr std::size_t kAheadBytes = 2048;
template <class T> FM_INLINE void fetch_ahead(const T* x) {
  for (std::size_t i = 0; i < kLanes; i += kLineBytes / sizeof(T))
    __builtin_prefetch(reinterpret_cast<const char*>(x + i) + kAheadBytes);
}

template <class Map, Op op, class T, class A>
FM_INLINE bool fast_loop(const T* x, T* out, std::size_t n, const A a, bool stream) {
  Flag<T, vectors_of<Map, T>(op)> unusual = 0;
  for (const T* const end = x + n; x != end; x += kLanes, out += kLanes) {
    alignas(kLineBytes) T result[kLanes];
#pragma GCC ivdep
    for (std::size_t i = 0; i < kLanes; ++i) {
      unusual |= (op < kThetaOps ? Map::usual_theta(x[i], a) : Map::usual_z(x[i], a)) ? 0 : 1;
      result[i] = apply<Map, op, Path::fast>(x[i], a);
    }
    if (stream) {
      fetch_ahead(x);
      for (std::size_t i = 0; i < kLanes; i += kLineBytes / sizeof(T)) stream_line(out + i, result + i);
    } else {
#pragma GCC ivdep
      for (std::size_t i = 0; i < kLanes; ++i) out[i] = result[i];
    }
  }
  return unusual != 0;
}

template <class Map, Op op, class T, class A>
FM_INLINE bool exact_loop(const T* x, T* out, std::size_t n, const A a) {
#pragma GCC ivdep
  for (std::size_t i = 0; i < n; ++i) out[i] = exact_lane<Map, op>(x[i], a);
  return false;
}

// A map's cases become loops of their own: in each, `which` is a constant.
template <class Map, Op op, Path P, int which, class T, class A>
FM_INLINE bool run_case(const T* x, T* out, std::size_t n, A a, bool stream) {
  if constexpr (which > 0) {
    if (a.which != which) return run_case<Map, op, P, which - 1>(x, out, n, a, stream);
  }
  if constexpr (Map::cases > 1) a.which = which;
  return P == Path::fast ? fast_loop<Map, op>(x, out, n, a, stream) : exact_loop<Map, op>(x, out, n, a);
}

template <class Map, Op op, class T>
bool fast(const void* x, void* out, std::size_t n, const ArgsBuffer& buffer, bool stream) {
  return run_case<Map, op, Path::fast, Map::cases - 1>(static_cast<const T*>(x), static_cast<T*>(out), n,
                                                       args_of<Map, T>(buffer), stream);
}
template <class Map, Op op, class T>
void exact(const void* x, void* out, std::size_t n, const ArgsBuffer& buffer) {
  run_case<Map, op, Path::exact, Map::cases - 1>(static_cast<const T*>(x), static_cast<T*>(out), n,
                                                 args_of<Map, T>(buffer), false);
}

// The pullback, the rule and the way back over one block in the L1 cache. As loops of their own: in a single one the
// chain of a vector, through both elementary functions, does not fit the reorder buffer twice (on Zen 3, `Log`
// takes 1.8 times as long, `Interval` 1.7).
template <class Map, class Rule, class T, int which = Map::cases - 1, class A, class C>
FM_INLINE bool fused_loops(const StepBlock& b, T factor, std::size_t n, A a, const C c) {
  if constexpr (which > 0) {
    if (a.which != which) return fused_loops<Map, Rule, T, which - 1>(b, factor, n, a, c);
  }
  if constexpr (Map::cases > 1) a.which = which;
  const T *g = static_cast<const T*>(b.gradient), *old_z = static_cast<const T*>(b.z),
          *old_m = static_cast<const T*>(b.first), *old_v = static_cast<const T*>(b.second),
          *old_theta = static_cast<const T*>(b.theta);
  T *new_z = static_cast<T*>(b.new_z), *new_m = static_cast<T*>(b.new_first),
    *new_v = static_cast<T*>(b.new_second), *new_theta = static_cast<T*>(b.new_theta), *pulled = new_theta;
  Flag<T, vectors<Map>(0)> unusual = 0, unusual_now = 0;
  for (std::size_t k = 0; k < n; k += kLanes) {
    const std::size_t end = n < k + kLanes ? n : k + kLanes;
    fetch_ahead(g + k);
    fetch_ahead(old_z + k);
#pragma GCC ivdep
    for (std::size_t i = k; i < end; ++i) {
      unusual |= Map::usual_z(old_z[i], a) ? 0 : 1;
      pulled[i] = factor * g[i] * Map::template inverse_jacobian<Path::fast>(old_z[i], a);
    }
  }
  for (std::size_t k = 0; k < n; k += kLanes) {
    const std::size_t end = n < k + kLanes ? n : k + kLanes;
    fetch_ahead(old_m + k);
    fetch_ahead(old_v + k);
#pragma GCC ivdep
    for (std::size_t i = k; i < end; ++i) {
      T m = old_m[i], v = old_v[i];
      const T z = Rule::template update<T>(pulled[i], old_z[i], m, v, c);
      new_z[i] = z;
      new_m[i] = m;
      new_v[i] = v;
    }
  }
  for (std::size_t k = 0; k < n; k += kLanes) {
    const std::size_t end = n < k + kLanes ? n : k + kLanes;
    fetch_ahead(old_theta + k);
#pragma GCC ivdep
    for (std::size_t i = k; i < end; ++i) {
      unusual_now |= Map::usual_z(new_z[i], a) ? 0 : 1;
      new_theta[i] = select(new_z[i] == old_z[i], old_theta[i],
                            Map::template inverse<Path::fast>(new_z[i], a));
    }
  }
  return (unusual | unusual_now) != 0;
}
template <class Map, class Rule, class T> bool fused(const RuleArgs& args, const ArgsBuffer& map,
                                                     double factor, const StepBlock& block, std::size_t n) {
  return fused_loops<Map, Rule, T>(block, T(factor), n, args_of<Map, T>(map),
                                   Rule::template prepare<T>(args));
}

template <class Map, class T> constexpr MapKernels map_kernels() {
#define FM_OPS(kernel)                                                                              \
  {                                                                                                 \
    kernel<Map, kForward, T>, kernel<Map, kJacobian, T>, kernel<Map, kLogAbsDet, T>,                \
        kernel<Map, kLogAbsDetGrad, T>, kernel<Map, kInverse, T>, kernel<Map, kInverseJacobian, T>, \
        kernel<Map, kInverseLogAbsDet, T>, kernel<Map, kInverseLogAbsDetGrad, T>                    \
  }
  return {prepare<Map, T>,
          {all_valid<Map, T, kThetaInside>, all_valid<Map, T, kZInside>, all_valid<Map, T, kThetaOnClosure>,
           all_valid<Map, T, kZOnClosure>, all_valid<Map, T, kNumber>},
          theta_range<Map, T>,
          z_range<Map, T>,
          FM_OPS(fast),
          FM_OPS(exact),
          {nullptr, sizeof(T) == 4 ? fused<Map, Adam, T> : nullptr, nullptr}};
#undef FM_OPS
}

}  // namespace fastmap::FM_ISA
