// What Log2 and Log10 share: z = log(theta - low) / log B, theta = low + B^z.
#pragma once

#include "maps/map.hpp"

namespace fastmap::FM_ISA {

// A map derives from this and adds `info`.
template <int base> struct LogBase {
  static_assert(base == 2 || base == 10);
  // log B, 1 / log B and -log(log B) / log B to the last digit of lo: the last two are roots of the
  // log-derivatives, and next to a root lo is the result.
  struct Constants {
    HiLo<double> log, inverse, root;
  };
  static constexpr Constants constants = base == 2
                                             ? Constants{{0x1.62e42fefa39efp-1, 0x1.abc9e3b39803fp-56},
                                                         {0x1.71547652b82fep0, 0x1.777d0ffda0d24p-56},
                                                         {0x1.0eba774e0bb63p-1, 0x1.cf9f12cffd617p-56}}
                                             : Constants{{0x1.26bb1bbb55516p1, -0x1.f48ad494ea3e9p-53},
                                                         {0x1.bcb7b1526e50ep-2, 0x1.95355baaafad3p-57},
                                                         {-0x1.72e8ab643fce8p-2, -0x1.86c8e2756e887p-56}};

  static constexpr int cases = 3;  // low == 0, low > 0, low < 0 (then theta has a root)

  template <class T> struct Args {
    T low, high;
    int which;
    HiLo<T> log_base, log_base_inv;
    HiLo<T> root;      // z where theta == 0
    HiLo<T> log_root;  // z where dtheta/dz == 1: -log(log B) / log B
    T usual_low, usual_high;
  };
  template <class T> static Args<T> prepare(const double* p) {
    const T low = T(p[0]);
    const int which = low == 0 ? 0 : low > 0 ? 1 : 2;
    Args<T> a{low,
              Float<T>::inf,
              which,
              host::round_to<T>(constants.log),
              host::round_to<T>(constants.inverse),
              {0, 0},
              host::round_to<T>(constants.root),
              math::Constants<T>::exp_low,
              math::Constants<T>::exp_high - 2};
    if (low < 0) {
      const HiLo<double> y = host::log({-double(low), 0});
      a.root = host::round_to<T>(divide(y, constants.log));
      a.usual_low = a.usual_low + abs(T(y.hi));
      a.usual_high = math::Constants<T>::large_exponent - 1 - abs(T(y.hi));
    }
    a.usual_low = a.usual_low * a.log_base_inv.hi;
    a.usual_high = a.usual_high * a.log_base_inv.hi;
    return a;
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    return (t - a.low > Float<T>::small) & (t < Float<T>::large);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>& a) {
    return (z >= a.usual_low) & (z <= a.usual_high);
  }

  template <Path P, class T> FM_INLINE static T sum(HiLo<T> x) {
    if constexpr (P == Path::exact) return select(is_finite(x.hi), x.hi + x.lo, x.hi);
    return x.hi + x.lo;
  }

  // The logarithm and the constant are both HiLo: powers of the base give exact integers, and back.
  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    const HiLo<T> l = a.which == 0 ? math::log_parts<P>(t) : math::log_parts<P>(two_sum(t, -a.low));
    return sum<P>(multiply(l, a.log_base_inv));
  }
  template <class T> FM_INLINE static HiLo<T> exponent(T z, const Args<T>& a) {
    return multiply(HiLo<T>{z, 0}, a.log_base);
  }
  // As in Log, with low < 0 it is -low expm1((z - z0) log B) everywhere, z0 the root.
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    if (a.which == 0) return math::exp<P>(exponent(z, a));
    if (a.which == 1) return a.low + math::exp<P>(exponent(z, a));
    const HiLo<T> difference = two_sum(z, -a.root.hi), d = two_sum(difference.hi, difference.lo - a.root.lo);
    const HiLo<T> y = multiply(d, a.log_base), e = math::expm1_parts<P>(y);
    T r = fma(-a.low, e.hi, -a.low * e.lo);
    if constexpr (P == Path::exact) {
      r = select(difference.hi * a.log_base.hi > math::Constants<T>::large_exponent,
                 a.low + math::exp<P>(exponent(z, a)), r);
      r = select(z == -Float<T>::inf, a.low, r);
    }
    return r;
  }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    return a.log_base_inv.hi / (t - a.low);
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    return math::scaled_exp<P>(a.log_base.hi, exponent(z, a));
  }
  // One logarithm of a HiLo quotient: its root at theta - low = 1 / log B keeps its digits.
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    return math::log_ratio<P>(a.log_base_inv, two_sum(t, -a.low));
  }
  // z log B + log log B with its root factored out.
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    const HiLo<T> d = two_sum(z, -a.log_root.hi);
    return sum<P>(multiply(HiLo<T>{d.hi, d.lo - a.log_root.lo}, a.log_base));
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    return -1 / (t - a.low);
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T, const Args<T>& a) {
    return a.log_base.hi;
  }
};

}  // namespace fastmap::FM_ISA
