// Compiled once per structured map and ISA (CMake sets FM_ISA, FM_MAP and FM_MAP_HEADER).
#include FM_MAP_HEADER

namespace fastmap::FM_ISA {
namespace {

// Flat: a lane whose work the compiler would rather call is a loop that stays scalar.
template <class Map, RowOp op, class S> __attribute__((flatten)) void run(const Tile& tile) {
  const rows::Rows<S> r(tile);
  if constexpr (op == kRowForward) Map::forward(r);
  if constexpr (op == kRowInverse) Map::inverse(r);
  if constexpr (op == kRowForwardPullback) Map::forward_pullback(r);
  if constexpr (op == kRowInversePullback) Map::inverse_pullback(r);
}
template <class Map, class T> void check(const Tile& tile, void* refused) {
  Map::check(rows::Rows<T>(tile), static_cast<T*>(refused));
}
template <class Map, class T> constexpr RowKernels row_kernels() {
  return {{run<Map, kRowForward, T>, run<Map, kRowInverse, T>, run<Map, kRowForwardPullback, T>,
           run<Map, kRowInversePullback, T>},
          {run<Map, kRowForward, Dual<T>>, run<Map, kRowInverse, Dual<T>>,
           run<Map, kRowForwardPullback, Dual<T>>, run<Map, kRowInversePullback, Dual<T>>},
          check<Map, T>};
}

}  // namespace
}  // namespace fastmap::FM_ISA

#define FM_JOIN_(a, b, c) a##b##_##c
#define FM_JOIN(a, b, c) FM_JOIN_(a, b, c)

extern "C" {
extern const fastmap::StructuredTable FM_JOIN(fastmap_structured_, FM_MAP, FM_ISA);
const fastmap::StructuredTable FM_JOIN(fastmap_structured_, FM_MAP, FM_ISA){
    &fastmap::FM_ISA::FM_MAP::info,
    {fastmap::FM_ISA::row_kernels<fastmap::FM_ISA::FM_MAP, float>(),
     fastmap::FM_ISA::row_kernels<fastmap::FM_ISA::FM_MAP, double>()}};
}
