// The mirror image of a map, z = -f(-theta): exact, so that the numerics of both are written once.
#pragma once

#include "maps/map.hpp"

namespace fastmap::FM_ISA {

// A map derives from this and adds `info` and `prepare`.
template <class Image> struct Mirrored {
  static constexpr int cases = Image::cases;

  // `low` and `high` hide those of the image, whose formulas get the base.
  template <class T> struct Args : Image::template Args<T> {
    T low, high;
  };
  template <class T> static Args<T> prepare_image(const double* image_params) {
    Args<T> a{Image::template prepare<T>(image_params), 0, 0};
    const typename Image::template Args<T>& image = a;
    a.low = -image.high;
    a.high = -image.low;
    return a;
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    return Image::template usual_theta<T>(-t, a);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>& a) {
    return Image::template usual_z<T>(-z, a);
  }
  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    return -Image::template forward<P, T>(-t, a);
  }
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    return -Image::template inverse<P, T>(-z, a);
  }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    return Image::template jacobian<P, T>(-t, a);
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    return Image::template inverse_jacobian<P, T>(-z, a);
  }
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    return Image::template log_abs_det<P, T>(-t, a);
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    return Image::template inverse_log_abs_det<P, T>(-z, a);
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    return -Image::template log_abs_det_grad<P, T>(-t, a);
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>& a) {
    return -Image::template inverse_log_abs_det_grad<P, T>(-z, a);
  }
};

}  // namespace fastmap::FM_ISA
