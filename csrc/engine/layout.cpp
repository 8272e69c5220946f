#include "engine/layout.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace fastmap {
namespace {

// Calls move(element, stride, done, m) for each piece of a row in the n elements from a logical index on. Chosen
// elements are pieces of their own.
template <class Move>
void walk(const Layout& l, Operand operand, std::size_t index, std::size_t n, const Move& move) {
  const std::size_t length = l.dims.empty() || l.dims.back().chosen ? 1 : l.dims.back().length;
  const std::ptrdiff_t stride = l.dims.empty() ? 0 : l.dims.back().strides[operand];
  for (std::size_t done = 0, m; done < n; done += m) {
    m = std::min(n - done, length - (index + done) % length);
    move(l.at(operand, index + done), stride, done, m);
  }
}

template <class T>
void gather_items(const Layout& l, Operand from, std::size_t index, std::size_t n, void* to_) {
  char* to = static_cast<char*>(to_);
  walk(l, from, index, n, [&](const char* row, std::ptrdiff_t stride, std::size_t done, std::size_t m) {
    if (stride == std::ptrdiff_t(sizeof(T)))
      std::memcpy(to + done * sizeof(T), row, m * sizeof(T));
    else
      for (std::size_t i = 0; i < m; ++i)
        std::memcpy(to + (done + i) * sizeof(T), row + std::ptrdiff_t(i) * stride, sizeof(T));
  });
}
template <class T>
void scatter_items(const Layout& l, const void* from_, std::size_t index, std::size_t n, Operand to) {
  const char* from = static_cast<const char*>(from_);
  walk(l, to, index, n, [&](char* row, std::ptrdiff_t stride, std::size_t done, std::size_t m) {
    if (stride == std::ptrdiff_t(sizeof(T)))
      std::memcpy(row, from + done * sizeof(T), m * sizeof(T));
    else
      for (std::size_t i = 0; i < m; ++i)
        std::memcpy(row + std::ptrdiff_t(i) * stride, from + (done + i) * sizeof(T), sizeof(T));
  });
}

}  // namespace

std::size_t Layout::size() const {
  std::size_t n = 1;
  for (const Dim& d : dims) n *= d.length;
  return n;
}

std::size_t Layout::run() const {
  std::size_t n = 1;
  for (auto d = dims.rbegin(); d != dims.rend() && d->row == 0; ++d) n *= d->length;
  return n;
}

std::size_t Layout::row(std::size_t index) const {
  std::ptrdiff_t r = 0;
  for (auto d = dims.rbegin(); d != dims.rend(); index /= d->length, ++d)
    r += d->position(index % d->length) * d->row;
  return std::size_t(r);
}

char* Layout::at(Operand operand, std::size_t index) const {
  char* p = data[operand];
  for (std::size_t d = dims.size(); d-- > 1; index /= dims[d].length)
    p += dims[d].position(index % dims[d].length) * dims[d].strides[operand];
  return dims.empty() ? p : p + dims[0].position(index) * dims[0].strides[operand];
}

bool Layout::contiguous(Operand operand, std::size_t index, std::size_t n, std::size_t item) const {
  // Whatever is set below the size, a power of two, in the address or in a stride may be so in an element's address.
  std::uintptr_t bits = reinterpret_cast<std::uintptr_t>(data[operand]);
  for (const Dim& d : dims) bits |= std::uintptr_t(d.strides[operand]);
  if (bits & (item - 1)) return false;
  if (n == 1) return true;
  const Dim& last = dims.back();
  return last.strides[operand] == std::ptrdiff_t(item) && !last.chosen &&
         (dims.size() == 1 || index % last.length + n <= last.length);
}

void merge(Layout& l) {
  std::vector<Layout::Dim> merged;
  for (const Layout::Dim& dim : l.dims) {
    if (dim.length == 1 && !dim.chosen) continue;
    const auto is_inside = [&](const Layout::Dim& outer) {
      const auto length = std::ptrdiff_t(dim.length);
      bool one = outer.row == dim.row * length && !outer.chosen && !dim.chosen;
      for (int o = 0; o < kOperands; ++o) one &= !l.data[o] || outer.strides[o] == dim.strides[o] * length;
      return one;
    };
    if (!merged.empty() && is_inside(merged.back())) {
      const std::size_t outer = merged.back().length;
      merged.back() = dim;
      merged.back().length *= outer;
    } else {
      merged.push_back(dim);
    }
  }
  l.dims = std::move(merged);
}

std::vector<Layout> ordered(Layout l, std::size_t tile) {
  merge(l);
  if (l.dims.size() <= 1) return {std::move(l)};
  const auto stride = [](const Layout::Dim& d) { return std::abs(d.strides[kOut]); };
  std::stable_sort(l.dims.begin(), l.dims.end(), [&](const Layout::Dim& a, const Layout::Dim& b) {
    if ((a.row != 0) != (b.row != 0)) return a.row != 0;
    return stride(a) > stride(b);
  });
  merge(l);
  const Layout::Dim last = l.dims.back();
  const bool long_strides = last.row == 0 &&
                            std::any_of(l.dims.begin(), l.dims.end(), [&](const Layout::Dim& d) {
                              return d.row != 0 && stride(d) < stride(last);
                            });
  if (!long_strides || last.length <= tile || last.chosen) return {std::move(l)};
  Layout rest = l;
  const std::size_t tiles = last.length / tile;
  rest.dims.back().length = last.length % tile;
  Layout::Dim outer = last;
  outer.length = tiles;
  for (int o = 0; o < kOperands; ++o) {
    if (rest.data[o]) rest.data[o] += std::ptrdiff_t(tiles * tile) * last.strides[o];
    outer.strides[o] *= std::ptrdiff_t(tile);
  }
  l.dims.back().length = tile;
  l.dims.insert(l.dims.begin(), outer);
  if (rest.size() == 0) return {std::move(l)};
  return {std::move(l), std::move(rest)};
}

void gather(const Layout& l, Operand from, std::size_t index, std::size_t n, std::size_t item, void* to) {
  if (item == 2) return gather_items<std::uint16_t>(l, from, index, n, to);
  if (item == 4) return gather_items<std::uint32_t>(l, from, index, n, to);
  gather_items<std::uint64_t>(l, from, index, n, to);
}
void scatter(const Layout& l, const void* from, std::size_t index, std::size_t n, std::size_t item,
             Operand to) {
  if (item == 2) return scatter_items<std::uint16_t>(l, from, index, n, to);
  if (item == 4) return scatter_items<std::uint32_t>(l, from, index, n, to);
  scatter_items<std::uint64_t>(l, from, index, n, to);
}

}  // namespace fastmap
