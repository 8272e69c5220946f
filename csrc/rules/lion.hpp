#pragma once

#include "rules/rule.hpp"

namespace fastmap::FM_ISA {

// Chen et al., "Symbolic Discovery of Optimization Algorithms" (2023).
struct Lion {
  static constexpr int moments = 1;
  template <class T> struct Constants {
    T rest1, rest2, decay, lr;
  };
  template <class T> FM_INLINE static Constants<T> prepare(const RuleArgs& a) {
    return {T(1 - a.beta1), T(1 - a.beta2), T(a.decay), T(a.lr)};
  }
  template <class T> FM_INLINE static T update(T g, T z, T& m, T&, const Constants<T>& a) {
    const T direction = fma(g - m, a.rest1, m);
    m = fma(g - m, a.rest2, m);
    const T sign = select(direction == 0, T(0), copysign(T(1), direction));
    return fma(-a.lr, select(is_nan(direction), direction, sign), a.decay * z);
  }
};

}  // namespace fastmap::FM_ISA
