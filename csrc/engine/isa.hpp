// The builds of the kernels, one per instruction set, and the one in use.
#pragma once

#include <cstddef>
#include <vector>

#include "engine/abi.hpp"

namespace fastmap {

struct Isa {
  const char* name;
  bool available;
  const EngineTable* engine;
  const MapTable* const* maps;
};

const std::vector<Isa>& isas();
const Isa& active_isa();  // FASTMAP_ISA, else the best; throws std::invalid_argument if unavailable
std::size_t map_count();
const MapInfo& map_info(int map);
int find_map(const char* name);  // the map of that name; -1 if there is none

}  // namespace fastmap
