// One element of an optimizer's step, in the order of step_block of step.cpp.
#pragma once

#include "engine/cuda.hpp"
#include "engine/lane.hpp"
#include "engine/step_modes.hpp"
#include "rules/adam.hpp"
#include "rules/lion.hpp"
#include "rules/sgd.hpp"

namespace fastmap::FM_ISA {

// What a step reads of device memory; the last ones are those of its rule.
template <class T> struct StepScalars {
  T factor, weight_decay, rate;
  std::uint32_t skip, still;  // found_inf; a learning rate of 0
  union {
    typename Sgd<true>::template Constants<T> sgd;
    Adam::Constants<T> adam;
    Lion::Constants<T> lion;
  };
};

template <class T> struct StepElement {
  T g, z, m, v, theta;
};

// Where z lies outside the codomain, from its nearest point. NaN stays NaN.
template <class Map, Op op, class T, class A> FM_INLINE T from_z(T z, const A& a) {
  const T x = max(min(z, z_high<T>(a, 0)), z_low<T>(a, 0));
  return Map::usual_z(x, a) ? apply<Map, op, Path::fast>(x, a) : exact_lane<Map, op>(x, a);
}

// dL/dz from dL/dtheta, up to weight decay.
template <class T> FM_INLINE T pulled(T g, T slope, const CudaStep& s) {
  if (Gradient(s.gradient) == Gradient::dual) return g;
  if (Gradient(s.gradient) == Gradient::clamped) slope = max(min(slope, T(s.clamp_high)), T(s.clamp_low));
  return slope * g;
}

template <class T>
FM_INLINE T rule_update(T g, T z, T& m, T& v, std::uint32_t rule, bool has_first, const StepScalars<T>& c) {
  if (rule == kAdam) return Adam::update<T>(g, z, m, v, c.adam);
  if (rule == kLion) return Lion::update<T>(g, z, m, v, c.lion);
  using Constants = typename Sgd<false>::template Constants<T>;
  if (!has_first)
    return Sgd<false>::update<T>(
        g, z, m, v,
        Constants{c.sgd.momentum_factor, c.sgd.rest, c.sgd.lookahead, c.sgd.direct, c.sgd.decay, c.sgd.lr});
  return Sgd<true>::update<T>(g, z, m, v, c.sgd);
}

template <class Map, class T, class A> FM_INLINE void step_element(StepElement<T>& e, const CudaStep& s,
                                                                   bool has_first, const StepScalars<T>& c,
                                                                   const A& a) {
  const bool decays_theta = Decay(s.decay) == Decay::theta, is_dual = Gradient(s.gradient) == Gradient::dual;
  T g = c.factor * e.g, z = e.z;
  if (decays_theta && !s.decoupled) g = fma(c.weight_decay, e.theta, g);
  if (!is_dual || (decays_theta && s.decoupled)) {
    const T slope = from_z<Map, kInverseJacobian>(z, a);
    g = pulled(g, slope, s);
    if (decays_theta && s.decoupled) z = select(slope == 0, z, fma(-c.rate, e.theta / slope, z));
  }
  if (Decay(s.decay) == Decay::z && !s.decoupled) g = fma(c.weight_decay, e.z, g);
  z = rule_update(g, z, e.m, e.v, s.rule, has_first, c);
  if (c.still) z = e.z;
  if (z != e.z) e.theta = from_z<Map, kInverse>(z, a);
  e.z = z;
}

}  // namespace fastmap::FM_ISA
