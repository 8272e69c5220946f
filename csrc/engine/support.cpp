// Compiled once per ISA: what the engine needs besides the maps.
#include "engine/stream.hpp"
#include "math/half.hpp"
#include "rules/adam.hpp"
#include "rules/lion.hpp"
#include "rules/sgd.hpp"

namespace fastmap::FM_ISA {
namespace {

template <class T> void multiply_arrays(const void* a_, const void* b_, void* out_, std::size_t n) {
  const T *a = static_cast<const T*>(a_), *b = static_cast<const T*>(b_);
  T* out = static_cast<T*>(out_);
#pragma GCC ivdep
  for (std::size_t i = 0; i < n; ++i) {
    const T r = a[i] * b[i];
    out[i] = select(r == r, r, nan<T>());
  }
}

template <class T> void add_arrays(const void* a_, const void* b_, void* out_, std::size_t n) {
  const T *a = static_cast<const T*>(a_), *b = static_cast<const T*>(b_);
  T* out = static_cast<T*>(out_);
#pragma GCC ivdep
  for (std::size_t i = 0; i < n; ++i) {
    const T r = a[i] + b[i];
    out[i] = select(r == r, r, nan<T>());
  }
}

template <class T> void clip(const void* x_, void* out_, std::size_t n, double low_, double high_) {
  const T* x = static_cast<const T*>(x_);
  T* out = static_cast<T*>(out_);
  const T low = T(low_), high = T(high_);
#pragma GCC ivdep
  for (std::size_t i = 0; i < n; ++i) out[i] = max(min(x[i], high), low);
}

template <class T> void scale(const void* x_, void* out_, std::size_t n, double factor_) {
  const T* x = static_cast<const T*>(x_);
  T* out = static_cast<T*>(out_);
  const T factor = T(factor_);
#pragma GCC ivdep
  for (std::size_t i = 0; i < n; ++i) out[i] = factor * x[i];
}

template <class T> void add_scaled(void* x_, const void* y_, std::size_t n, double factor_) {
  T* x = static_cast<T*>(x_);
  const T *y = static_cast<const T*>(y_), factor = T(factor_);
#pragma GCC ivdep
  for (std::size_t i = 0; i < n; ++i) x[i] = fma(factor, y[i], x[i]);
}

template <class T>
void subtract_quotient(void* x_, const void* y_, const void* slope_, std::size_t n, double factor_) {
  T* x = static_cast<T*>(x_);
  const T *y = static_cast<const T*>(y_), *slope = static_cast<const T*>(slope_), factor = T(factor_);
#pragma GCC ivdep
  for (std::size_t i = 0; i < n; ++i) x[i] = select(slope[i] == 0, x[i], fma(-factor, y[i] / slope[i], x[i]));
}

// x = fresh where z has moved; elsewhere it keeps its bits.
template <class T>
void replace_moved(void* x_, const void* fresh_, const void* z_, const void* old_z_, std::size_t n) {
  T* x = static_cast<T*>(x_);
  const T *fresh = static_cast<const T*>(fresh_), *z = static_cast<const T*>(z_),
          *old_z = static_cast<const T*>(old_z_);
#pragma GCC ivdep
  for (std::size_t i = 0; i < n; ++i) x[i] = select(z[i] == old_z[i], x[i], fresh[i]);
}

template <class Rule, class T>
void update(const RuleArgs& args, const void* g_, void* z_, void* first_, void* second_, std::size_t n) {
  const auto a = Rule::template prepare<T>(args);
  const T* g = static_cast<const T*>(g_);
  T *z = static_cast<T*>(z_), *first = static_cast<T*>(first_), *second = static_cast<T*>(second_);
#pragma GCC ivdep
  for (std::size_t i = 0; i < n; ++i) {
    T m = Rule::moments > 0 ? first[i] : T(0), v = Rule::moments > 1 ? second[i] : T(0);
    z[i] = Rule::template update<T>(g[i], z[i], m, v, a);
    if constexpr (Rule::moments > 0) first[i] = m;
    if constexpr (Rule::moments > 1) second[i] = v;
  }
}
template <class T>
void update_sgd(const RuleArgs& args, const void* g, void* z, void* first, void* second, std::size_t n) {
  (first ? update<Sgd<true>, T> : update<Sgd<false>, T>)(args, g, z, first, second, n);
}

template <float widened(std::uint16_t)> void widen(const void* from_, void* to_, std::size_t n) {
  const auto* from = static_cast<const std::uint16_t*>(from_);
  auto* to = static_cast<float*>(to_);
#pragma GCC ivdep
  for (std::size_t i = 0; i < n; ++i) to[i] = widened(from[i]);
}

template <std::uint16_t narrowed(float)> void narrow(const void* from_, void* to_, std::size_t n) {
  const auto* from = static_cast<const float*>(from_);
  auto* to = static_cast<std::uint16_t*>(to_);
#pragma GCC ivdep
  for (std::size_t i = 0; i < n; ++i) to[i] = narrowed(from[i]);
}

// Element i goes to lane i % 32; lanes fold in halves. Up to kSumBlock elements.
template <class T, bool squared> double sum(const void* x_, std::size_t n) {
  const T* x = static_cast<const T*>(x_);
  const auto term = [&](std::size_t i) { return squared ? double(x[i]) * double(x[i]) : double(x[i]); };
  double lanes[32] = {};
  std::size_t i = 0;
  for (; i + 32 <= n; i += 32)
    for (std::size_t j = 0; j < 32; ++j) lanes[j] += term(i + j);
  for (std::size_t j = 0; i + j < n; ++j) lanes[j] += term(i + j);
  for (std::size_t width = 16; width > 0; width /= 2)
    for (std::size_t j = 0; j < width; ++j) lanes[j] += lanes[j + width];
  return lanes[0];
}

// Non-temporal copy of an L1-resident block: the lines of `to` are not read from memory first. Reading
// the next block of input meanwhile keeps both directions of the memory bus busy.
void stream(const void* from_, void* to_, std::size_t bytes, const void* next_) {
  const char *from = static_cast<const char*>(from_), *next = static_cast<const char*>(next_);
  char* to = static_cast<char*>(to_);
  const std::size_t head = -reinterpret_cast<std::uintptr_t>(to) % kLineBytes;
  std::size_t i = 0;
  for (; i < head && i < bytes; ++i) to[i] = from[i];
  for (; i + kLineBytes <= bytes; i += kLineBytes) {
    __builtin_prefetch(next + i);
    stream_line(to + i, from + i);
  }
  for (; i < bytes; ++i) to[i] = from[i];
}

}  // namespace
}  // namespace fastmap::FM_ISA

#define FM_JOIN_(a, b) a##b
#define FM_JOIN(a, b) FM_JOIN_(a, b)
extern "C" {
extern const fastmap::EngineTable FM_JOIN(fastmap_engine_, FM_ISA);
const fastmap::EngineTable FM_JOIN(fastmap_engine_, FM_ISA){
    {fastmap::FM_ISA::multiply_arrays<float>, fastmap::FM_ISA::multiply_arrays<double>},
    {fastmap::FM_ISA::add_arrays<float>, fastmap::FM_ISA::add_arrays<double>},
    {fastmap::FM_ISA::clip<float>, fastmap::FM_ISA::clip<double>},
    {fastmap::FM_ISA::sum<float, false>, fastmap::FM_ISA::sum<double, false>},
    {fastmap::FM_ISA::sum<float, true>, fastmap::FM_ISA::sum<double, true>},
    {fastmap::FM_ISA::scale<float>, fastmap::FM_ISA::scale<double>},
    {fastmap::FM_ISA::add_scaled<float>, fastmap::FM_ISA::add_scaled<double>},
    {fastmap::FM_ISA::subtract_quotient<float>, fastmap::FM_ISA::subtract_quotient<double>},
    {fastmap::FM_ISA::replace_moved<float>, fastmap::FM_ISA::replace_moved<double>},
    {{fastmap::FM_ISA::update_sgd<float>, fastmap::FM_ISA::update_sgd<double>},
     {fastmap::FM_ISA::update<fastmap::FM_ISA::Adam, float>,
      fastmap::FM_ISA::update<fastmap::FM_ISA::Adam, double>},
     {fastmap::FM_ISA::update<fastmap::FM_ISA::Lion, float>,
      fastmap::FM_ISA::update<fastmap::FM_ISA::Lion, double>}},
    {fastmap::FM_ISA::widen<fastmap::FM_ISA::widen_bfloat16>,
     fastmap::FM_ISA::widen<fastmap::FM_ISA::widen_float16>},
    {fastmap::FM_ISA::narrow<fastmap::FM_ISA::narrow_bfloat16>,
     fastmap::FM_ISA::narrow<fastmap::FM_ISA::narrow_float16>},
    fastmap::FM_ISA::stream};
}
