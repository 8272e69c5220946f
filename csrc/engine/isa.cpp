#include "engine/isa.hpp"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "fastmap_registry.hpp"  // generated: FASTMAP_FOR_ISAS, FASTMAP_FOR_MAPS

#define FM_DECLARE_MAP(map, isa) extern "C" const fastmap::MapTable fastmap_map_##map##_##isa;
#define FM_DECLARE_ISA(isa)             \
  FASTMAP_FOR_MAPS(FM_DECLARE_MAP, isa) \
  extern "C" const fastmap::EngineTable fastmap_engine_##isa;
FASTMAP_FOR_ISAS(FM_DECLARE_ISA)

namespace fastmap {
namespace {

#define FM_MAP_ADDRESS(map, isa) &fastmap_map_##map##_##isa,
#define FM_MAP_LIST(isa) const MapTable* const maps_##isa[] = {FASTMAP_FOR_MAPS(FM_MAP_ADDRESS, isa)};
FASTMAP_FOR_ISAS(FM_MAP_LIST)

bool cpu_has(const std::string& isa) {
#if defined(__x86_64__)
  if (isa == "avx2")
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  if (isa == "avx512")
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
#endif
  return isa == "baseline" || isa == "neon";
}

}  // namespace

const std::vector<Isa>& isas() {
#define FM_ISA_ROW(isa) {#isa, cpu_has(#isa), &fastmap_engine_##isa, maps_##isa},
  static const std::vector<Isa> all{FASTMAP_FOR_ISAS(FM_ISA_ROW)};
  return all;
}

const Isa& active_isa() {
  static const Isa& chosen = []() -> const Isa& {
    const char* wanted = std::getenv("FASTMAP_ISA");
    const Isa* best = nullptr;
    std::string names;
    for (const Isa& isa : isas()) {
      if (!isa.available) continue;
      names += std::string(names.empty() ? "" : ", ") + isa.name;
      if (!wanted || !*wanted || std::strcmp(wanted, isa.name) == 0) best = &isa;
    }
    if (!best)
      throw std::invalid_argument("FASTMAP_ISA=" + std::string(wanted ? wanted : "") +
                                  " is not available here; available: " + names);
    return *best;
  }();
  return chosen;
}

#define FM_COUNT_MAP(map, isa) +1
std::size_t map_count() { return 0 FASTMAP_FOR_MAPS(FM_COUNT_MAP, any); }
const MapInfo& map_info(int map) { return *isas().front().maps[map]->info; }

int find_map(const char* name) {
  for (int map = 0; map < int(map_count()); ++map)
    if (std::strcmp(map_info(map).name, name) == 0) return map;
  return -1;
}

}  // namespace fastmap
