// Everything between a binding and the kernels: ISA, threads, blocks, policies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/abi.hpp"

namespace fastmap {

enum class Policy { raise, nan, clip };

// How many inputs were invalid, and the first of them (raise: out of the domain; clip: NaN).
struct Invalid {
  std::size_t count = 0, first = 0;
};

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

// Throws std::invalid_argument that names the parameter. Returns the parameters as the kernels use
// them: rounded once to the dtype they compute in, bounds inwards to what the buffers hold.
std::vector<double> effective_params(int map, Storage storage, const std::vector<double>& params);

// out[i] = op(x[i]) * (g ? g[i] : 1). x == out and g == out are allowed; nothing else may overlap.
// raise, x == out or g == out: read whole before anything is written.
Invalid apply(Op op, int map, Storage storage, const std::vector<double>& params, std::size_t n,
              const void* x, const void* g, void* out, Policy policy);

// sums[r] = sum over row r of op; when out, also out = value_op(x), which may alias x.
Invalid log_det(Op op, int map, Storage storage, const std::vector<double>& params, std::size_t rows,
                std::size_t n, const void* x, double* sums, Op value_op, void* out, Policy policy);

// Asks for huge pages behind a large buffer that nobody has touched yet: a page fault every 4 KiB costs more
// than the mapping itself.
void advise_huge_pages(void* buffer, std::size_t bytes);

}  // namespace fastmap
