#pragma once

#include "rules/rule.hpp"

namespace fastmap::FM_ISA {

// Kingma and Ba, "Adam: A Method for Stochastic Optimization" (2015), in the order of torch.optim.Adam; with
// decay < 1 Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019).
struct Adam {
  static constexpr int moments = 2;
  template <class T> struct Constants {
    T rest1, beta2, rest2, decay, step_size, correction, eps;
  };
  template <class T> FM_INLINE static Constants<T> prepare(const RuleArgs& a) {
    return {T(1 - a.beta1),    T(a.beta2),           T(1 - a.beta2), T(a.decay),
            T(a.lr / a.bias1), T(1 / sqrt(a.bias2)), T(a.eps)};
  }
  template <class T> FM_INLINE static T update(T g, T z, T& m, T& v, const Constants<T>& a) {
    m = fma(g - m, a.rest1, m);
    v = fma(a.rest2 * g, g, a.beta2 * v);
    return fma(-a.step_size, m / fma(sqrt(v), a.correction, a.eps), a.decay * z);
  }
};

}  // namespace fastmap::FM_ISA
