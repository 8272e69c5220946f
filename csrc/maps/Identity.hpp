#pragma once

#include "maps/map.hpp"

namespace fastmap::FM_ISA {

struct Identity {
  // clang-format off
  static constexpr MapInfo info{
      "identity",
      "The identity: z = theta.",
      0, {},
      "-inf", "inf", "-inf", "inf",
      {"t", "1", "0", "0", "z", "1", "0", "0"},
      {0, 0}, "exact", 1, {{}}};
  // clang-format on
  static constexpr int cases = 1;
  static constexpr int vectors = 1;

  template <class T> struct Args {
    T low, high;
  };
  template <class T> static Args<T> prepare(const double*) { return {-Float<T>::inf, Float<T>::inf}; }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>&) { return is_finite(t); }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>&) { return is_finite(z); }

  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>&) { return t; }
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>&) { return z; }
  template <Path P, class T> FM_INLINE static T jacobian(T, const Args<T>&) { return 1; }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T, const Args<T>&) { return 1; }
  template <Path P, class T> FM_INLINE static T log_abs_det(T, const Args<T>&) { return 0; }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T, const Args<T>&) { return 0; }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T, const Args<T>&) { return 0; }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T, const Args<T>&) { return 0; }
};

}  // namespace fastmap::FM_ISA
