// Compiled once per map and ISA (CMake sets FM_ISA, FM_MAP and FM_MAP_HEADER): the kernels of one map.
#include FM_MAP_HEADER
#include "engine/loop.hpp"

#define FM_JOIN_(a, b, c) a##b##_##c
#define FM_JOIN(a, b, c) FM_JOIN_(a, b, c)

extern "C" {
extern const fastmap::MapTable FM_JOIN(fastmap_map_, FM_MAP, FM_ISA);
const fastmap::MapTable FM_JOIN(fastmap_map_, FM_MAP, FM_ISA){
    &fastmap::FM_ISA::FM_MAP::info,
    {fastmap::FM_ISA::map_kernels<fastmap::FM_ISA::FM_MAP, float>(),
     fastmap::FM_ISA::map_kernels<fastmap::FM_ISA::FM_MAP, double>()}};
}
