// Roots and quotients for maps without transcendental functions, in HiLo where one of them cancels.
#pragma once

#include "math/ops.hpp"

namespace fastmap::FM_ISA::math {

template <class T> FM_INLINE HiLo<T> normalise(HiLo<T> x) { return fast_two_sum(x.hi, x.lo); }
template <class T> FM_INLINE HiLo<T> sqrt_parts(HiLo<T> x) {
  const T root = sqrt(x.hi);
  return {root, quotient_by_newton(fma(-root, root, x.hi) + x.lo, 2 * root)};
}
// z^2 + c, c >= 0
template <class T> FM_INLINE HiLo<T> square_plus(T z, T c) {
  const HiLo<T> square = two_product(z, z), sum = two_sum(square.hi, c);
  return {sum.hi, sum.lo + square.lo};
}
// a / x^2 by one division. Exact: by two where x^2 may leave the range before the quotient does.
template <Path P, class T> FM_INLINE T over_square(T a, HiLo<T> x) {
  const T direct = a / fma(x.hi, x.hi, 2 * x.hi * x.lo);
  if constexpr (P == Path::exact)
    return select((x.hi >= Float<T>::small) & (x.hi <= Float<T>::large), direct, a / x.hi / x.hi);
  return direct;
}

}  // namespace fastmap::FM_ISA::math
