#pragma once

#include "structured/Simplex.hpp"

namespace fastmap::FM_ISA {

struct StickBreaking {
  static constexpr StructuredInfo info{
      "stick_breaking",
      "Positive rows that sum to one, each entry as a part of what those before it leave: what Stan before "
      "2025 and torch.distributions have. z = 0 is the middle.",
      "positive and sum to 1",
      "z[k] = log((n-1-k) t[k] / (t[k+1] + ... + t[n-1]))",
      "t[k] = s[k] (1 - t[0] - ... - t[k-1]), s[k] = sigmoid(z[k] - log(n-1-k))",
      "the first n - 1 entries",
      1,
      Size::one_less,
      2};

  // Sums from the end keep their digits where 1 - t[0] - ... would cancel.
  template <class S> static void forward(const rows::Rows<S>& r) {
    const rows::Pairs<S> tail = r.pairs(0, 1), total = r.pairs(2, 3);
    const std::size_t last = r.at(r.n - 1);
    rows::each(r.lanes, [=](std::size_t l) {
      tail.set(l, {r.theta[last + l], S(0)});
      total.set(l, rows::log(r.theta[last + l]));
    });
    for (std::size_t k = r.n - 1; k-- > 0;) {
      const S rest = rows::whole<S>(r.n - 1 - k);
      rows::each(r.lanes, [=](std::size_t l) {
        const S t = r.theta[r.at(k) + l];
        const HiLo<S> p = two_product(rest, t);
        r.z[r.at(k) + l] = rows::value(rows::log(divide(p, tail[l])));
        total.set(l, total[l] + rows::log(t));
        tail.set(l, tail[l] + t);
      });
    }
    rows::each(r.lanes, [=](std::size_t l) { r.log_det[l] = -rows::value(total[l]); });
  }

  // s and 1 - s for z[k], from the smaller of e^x and e^-x.
  template <class S> struct Part {
    HiLo<S> taken, left;
    S log_taken, log_left;
  };
  template <class S> FM_INLINE static Part<S> part(S z, HiLo<S> log_rest) {
    const HiLo<S> x = two_sum(z, -log_rest.hi), d{x.hi, x.lo - log_rest.lo};
    const bool positive = real(z) > real(log_rest.hi);
    const HiLo<S> minus_abs = select(positive, negate(d), d);
    const S e = rows::exp(minus_abs);
    const HiLo<S> one_e = two_sum(S(1), e);
    const HiLo<S> large = divide(HiLo<S>{S(1), S(0)}, one_e), small = divide(HiLo<S>{e, S(0)}, one_e);
    const S log_large = -rows::value(rows::log(one_e)), log_small = minus_abs.hi + log_large;
    return {select(positive, large, small), select(positive, small, large),
            select(positive, log_large, log_small), select(positive, log_small, log_large)};
  }
  template <class S> static void inverse(const rows::Rows<S>& r) {
    const rows::Pairs<S> rest = r.pairs(0, 1), total = r.pairs(2, 3);
    S* const left = r.room(4);  // 1 - s, for the pullback
    rows::each(r.lanes, [=](std::size_t l) {
      rest.set(l, {S(1), S(0)});
      total.set(l, {S(0), S(0)});
    });
    for (std::size_t k = 0; k + 1 < r.n; ++k) {
      const S count = rows::whole<S>(r.n - 1 - k);
      const HiLo<S> log_rest = rows::log(count);
      rows::each(r.lanes, [=](std::size_t l) {
        const Part<S> p = part(r.z[r.at(k) + l], log_rest);
        const HiLo<S> before = rest[l], after = multiply(before, p.left);
        r.theta[r.at(k) + l] = rows::value(multiply(before, p.taken));
        left[r.at(k) + l] = rows::value(p.left);
        rest.set(l, normalised(after));
        total.set(l, total[l] + fma(count, p.log_left, p.log_taken));
      });
    }
    rows::each(r.lanes, [=](std::size_t l) {
      r.theta[r.at(r.n - 1) + l] = rows::value(rest[l]);
      r.log_det[l] = rows::value(total[l]);
    });
  }
  template <class S> static void forward_pullback(const rows::Rows<S>& r) {
    S *const tail = r.room(0), *const above = r.room(r.n);
    rows::fill(tail + r.at(r.n - 1), r.lanes, S(0));
    for (std::size_t k = r.n - 1; k-- > 0;)
      rows::each(r.lanes, [=](std::size_t l) {
        tail[r.at(k) + l] = tail[r.at(k + 1) + l] + r.theta[r.at(k + 1) + l];
      });
    rows::fill(above, r.lanes, S(0));
    for (std::size_t k = 0; k + 1 < r.n; ++k)
      rows::each(r.lanes, [=](std::size_t l) {
        const S g = r.grad_z[r.at(k) + l];
        r.grad_theta[r.at(k) + l] = (g - r.grad_log_det[l]) / r.theta[r.at(k) + l] - above[l];
        above[l] = above[l] + g / tail[r.at(k) + l];
      });
    rows::each(r.lanes, [=](std::size_t l) {
      r.grad_theta[r.at(r.n - 1) + l] = -r.grad_log_det[l] / r.theta[r.at(r.n - 1) + l] - above[l];
    });
  }
  template <class S> static void inverse_pullback(const rows::Rows<S>& r) {
    inverse(r);
    const S* const left = r.room(4);
    S* const by_rest = r.room(0);  // the gradient of what is left, per unit of it
    rows::each(r.lanes, [=](std::size_t l) { by_rest[l] = r.grad_theta[r.at(r.n - 1) + l]; });
    for (std::size_t k = r.n - 1; k-- > 0;) {
      const S count = rows::whole<S>(r.n - 1 - k);
      rows::each(r.lanes, [=](std::size_t l) {
        const S stays = left[r.at(k) + l], taken = S(1) - stays, g = r.grad_theta[r.at(k) + l];
        const S slope = r.theta[r.at(k) + l] * stays * (g - by_rest[l]);
        r.grad_z[r.at(k) + l] = fma(r.grad_log_det[l], stays - count * taken, slope);
        by_rest[l] = fma(g, taken, by_rest[l] * stays);
      });
    }
  }
  template <class T> static void check(const rows::Rows<T>& r, T* refused) { simplex::check(r, refused); }
};

}  // namespace fastmap::FM_ISA
