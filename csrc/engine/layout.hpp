// Where the elements of a call lie: n-dimensional, strided, with the row of parameters that belongs to each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastmap {

// An optimizer's step has z as kX, theta as kOut, two moments, and may count the steps of each row.
enum Operand { kX, kG, kOut, kFirst, kSecond, kCount, kOperands };

struct Layout {
  struct Dim {
    std::size_t length;
    std::ptrdiff_t row;                    // stride of the parameter rows
    std::ptrdiff_t strides[kOperands];     // in bytes
    const std::int64_t* chosen = nullptr;  // where some rows take part only: which ones

    std::ptrdiff_t position(std::size_t i) const {
      return std::ptrdiff_t(chosen ? chosen[i] : std::int64_t(i));
    }
  };
  char* data[kOperands] = {};  // null: the call has no such buffer
  std::vector<Dim> dims;

  std::size_t size() const;
  // Elements in logical order that are next to each other in the last dimensions and share their parameters.
  std::size_t run() const;
  std::size_t row(std::size_t index) const;  // of parameters, for the element at a logical index
  char* at(Operand operand, std::size_t index) const;
  // Whether n elements from a logical index on lie side by side, each where its type may lie.
  bool contiguous(Operand operand, std::size_t index, std::size_t n, std::size_t item) const;
};

// Merges neighbouring dimensions that are one in memory, and leaves out those of length 1.
void merge(Layout& layout);

// The same elements in an order that suits memory and parameters: parameters change slowest, except where that
// would walk through memory in long strides. Then the elements come in tiles, and what is left over is a layout
// of its own.
std::vector<Layout> ordered(Layout layout, std::size_t tile);

// n elements from a logical index on, to and from a contiguous buffer.
void gather(const Layout& layout, Operand from, std::size_t index, std::size_t n, std::size_t item, void* to);
void scatter(const Layout& layout, const void* from, std::size_t index, std::size_t n, std::size_t item,
             Operand to);

}  // namespace fastmap
