// Host constants to three times the precision of double. Next to a root x0 that is no float, x - x0 is all
// of the result: for the float nearest to x0 it is the second word of x0, which must itself be right to its
// last bit.
#pragma once

#include "maps/map.hpp"
#include "math/precise.hpp"

namespace fastmap::FM_ISA::host {

struct Wide {
  double x[3];  // an unevaluated sum, each at most half an ulp of the one before
};

// Some passes of exact sums of neighbours from the smallest up (Priest, "Algorithms for arbitrary precision
// floating point arithmetic", 1991).
template <int n> inline Wide distill(double (&x)[n]) {
  for (int pass = 0; pass < n; ++pass)
    for (int i = n - 1; i > 0; --i) {
      const HiLo<double> s = two_sum(x[i - 1], x[i]);
      x[i - 1] = s.hi, x[i] = s.lo;
    }
  return {{x[0], x[1], x[2]}};
}
inline Wide add(Wide a, Wide b) {
  double x[]{a.x[0], b.x[0], a.x[1], b.x[1], a.x[2], b.x[2]};
  return distill(x);
}
inline Wide multiply(Wide a, Wide b) {
  const HiLo<double> p = two_product(a.x[0], b.x[0]), q = two_product(a.x[0], b.x[1]),
                     r = two_product(a.x[1], b.x[0]);
  double x[]{p.hi, p.lo, q.hi, r.hi, q.lo + r.lo + fma(a.x[1], b.x[1], fma(a.x[0], b.x[2], a.x[2] * b.x[0]))};
  return distill(x);
}
inline Wide scale(Wide a, double power_of_2) {
  return {{a.x[0] * power_of_2, a.x[1] * power_of_2, a.x[2] * power_of_2}};
}
inline Wide divide(Wide a, double b) {
  double q[3];
  for (double& digit : q) {
    digit = a.x[0] / b;
    const HiLo<double> p = two_product(digit, b);
    double rest[]{a.x[0], -p.hi, a.x[1], -p.lo, a.x[2]};
    a = distill(rest);
  }
  return distill(q);
}
inline Wide divide(Wide a, Wide b) {
  double q[3];
  for (double& digit : q) {
    digit = a.x[0] / b.x[0];
    a = add(a, multiply({{-digit, 0, 0}}, b));
  }
  return distill(q);
}

// sinh x and cosh x - 1, |x| < 700: Taylor's series of x / 2^k, then doubled k times.
struct SinhCosh {
  Wide sinh, coshm1;
};
inline SinhCosh sinh_cosh(Wide x) {
  int doublings = 0;
  for (; abs(x.x[0]) > 0.125; ++doublings) x = scale(x, 0.5);
  const Wide one{{1, 0, 0}}, square = multiply(x, x);
  Wide odd = one, even = one;  // sinh x / x and (cosh x - 1) / (x^2 / 2), nested
  for (double k = 20; k > 0; k -= 2) {
    odd = add(one, divide(multiply(square, odd), k * (k + 1)));
    even = add(one, divide(multiply(square, even), (k + 1) * (k + 2)));
  }
  SinhCosh r{multiply(x, odd), multiply(scale(square, 0.5), even)};
  for (; doublings > 0; --doublings)
    r = {scale(multiply(r.sinh, add(one, r.coshm1)), 2), scale(multiply(r.sinh, r.sinh), 2)};
  return r;
}

// |x| < 700. Below -1 the sum would cancel.
inline Wide wide_exp(Wide x) {
  if (x.x[0] < -1) return divide({{1, 0, 0}}, wide_exp(scale(x, -1)));
  const SinhCosh e = sinh_cosh(x);
  return add(add(e.sinh, e.coshm1), {{1, 0, 0}});
}
// By one Newton step, as log of a HiLo.
inline Wide wide_log(Wide x) {
  const HiLo<double> y = log(HiLo<double>{x.x[0], x.x[1]});
  if (!is_finite(y.hi)) return {{y.hi, y.lo, 0}};
  if (abs(y.hi) > 300) {  // as log of a HiLo
    const Wide ln2{{math::Constants<double>::ln2, math::Constants<double>::ln2_rest, 0x1.7b57a079a1934p-111}};
    return add(multiply({{y.hi > 0 ? 400. : -400., 0, 0}}, ln2),
               wide_log(scale(x, y.hi > 0 ? 0x1p-400 : 0x1p400)));
  }
  const Wide near{{y.hi, y.lo, 0}}, back = wide_exp(near), off = add(x, scale(back, -1));
  return add(near, {{(off.x[0] + off.x[1]) / x.x[0], 0, 0}});
}

inline HiLo<double> head(Wide x) { return {x.x[0], x.x[1] + x.x[2]}; }
template <class T> inline HiLo<T> round_to(Wide x) { return round_to<T>(head(x)); }
template <class T> inline math::Twice<T> twice(HiLo<double> x) {
  if constexpr (math::has_edges<T>)
    return x;
  else
    return x.hi + x.lo;
}

}  // namespace fastmap::FM_ISA::host
