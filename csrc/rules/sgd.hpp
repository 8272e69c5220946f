#pragma once

#include "rules/rule.hpp"

namespace fastmap::FM_ISA {

// Stochastic gradient descent with the momentum of torch.optim.SGD: at its first step it is the gradient itself.
template <bool momentum> struct Sgd {
  static constexpr int moments = momentum ? 1 : 0;
  template <class T> struct Constants {
    T momentum_factor, rest, lookahead, direct, decay, lr;
  };
  template <class T> FM_INLINE static Constants<T> prepare(const RuleArgs& a) {
    const bool first = a.first;
    return {first ? T(0) : T(a.beta1),
            first ? T(1) : T(1 - a.dampening),
            a.nesterov ? T(a.beta1) : T(1),
            a.nesterov ? T(1) : T(0),
            T(a.decay),
            T(a.lr)};
  }
  template <class T> FM_INLINE static T update(T g, T z, T& m, T&, const Constants<T>& a) {
    if constexpr (momentum) {
      m = fma(a.momentum_factor, m, a.rest * g);
      g = fma(a.lookahead, m, a.direct * g);
    }
    return fma(-a.lr, g, a.decay * z);
  }
};

}  // namespace fastmap::FM_ISA
