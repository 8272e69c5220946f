#include "engine/dispatch.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include <sys/mman.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "engine/float_mode.hpp"
#include "engine/threads.hpp"
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

constexpr std::size_t kBlockBytes = 8192;  // input and stage share the L1 cache
// Streamed blocks are short: as many stores as the store queue holds, so that it drains while the next
// block is computed. Measured, 64 Mi float32: 2 KiB 3.1 Gelem/s (exp), 8 KiB 2.5, 16 KiB 2.3.
constexpr std::size_t kStreamBlockBytes = 2048;
constexpr std::size_t kLineBytes = 64;
constexpr std::size_t kStreamBytes = 32u << 20;  // larger outputs bypass the caches
constexpr std::size_t kPartBytes = 256u << 10;   // what a thread takes at a time

// Runs work(begin, end) over ranges of the blocks [0, n).
template <class Work> void parallel(std::size_t blocks, std::size_t bytes, const Work& work) {
  const std::size_t part = std::max<std::size_t>(1, blocks * kPartBytes / std::max<std::size_t>(bytes, 1));
  const std::size_t parts = (blocks + part - 1) / part;
  for_each_part(parts, std::size_t(num_threads()),
                [&](std::size_t i) { work(i * part, std::min(blocks, (i + 1) * part)); });
}

struct Call {
  const EngineTable* engine;
  const MapKernels* kernels;
  ArgsBuffer args;
  std::size_t size;  // of an element in the buffers
  bool on_theta;
  DType dtype;
  void (*widen)(const void* from, void* to, std::size_t n);  // null: buffers hold what kernels compute in
  void (*narrow)(const void* from, void* to, std::size_t n);

  std::size_t compute_size() const { return dtype == kFloat32 ? 4 : 8; }
  // The block as kernels take it: itself, or widened into `wide`.
  const void* block(const void* x, void* wide, std::size_t n) const {
    if (!widen) return x;
    widen(x, wide, n);
    return wide;
  }
};

// The constants of the last call are kept: for small buffers, preparing them would be most of the work.
Call make_call(Op op, int map, Storage storage, const std::vector<double>& params) {
  thread_local struct {
    int map = -1;
    Storage storage;
    std::vector<double> params;
    Call call;
  } last;
  if (last.map == map && last.storage == storage && last.params == params) {
    last.call.on_theta = op < kThetaOps;
    return last.call;
  }
  const EngineTable* engine = active_isa().engine;
  const DType dtype = storage == kStoredFloat64 ? kFloat64 : kFloat32;
  const int half = storage - kStoredBFloat16;  // which of the 16-bit types, if it is one
  Call call{engine,
            &active_isa().maps[map]->kernels[dtype],
            {},
            storage == kStoredFloat64   ? 8u
            : storage == kStoredFloat32 ? 4u
                                        : 2u,
            op < kThetaOps,
            dtype,
            half < 0 ? nullptr : engine->widen[half],
            half < 0 ? nullptr : engine->narrow[half]};
  const auto effective = effective_params(map, storage, params);
  double p[kMaxParams] = {};
  std::copy(effective.begin(), effective.end(), p);
  FloatMode mode;
  call.kernels->prepare(p, call.args);
  last.map = -1;  // should copying the parameters throw
  last.params = params;
  last.call = call;
  last.storage = storage;
  last.map = map;
  return call;
}

// An unusual block again, by the policy and the exact kernel. False: refused.
bool redo(const Call& call, Op op, const void* x, void* out, std::size_t n, Policy policy) {
  alignas(64) unsigned char clipped[kSumBlock * 8];
  const bool refusable = policy != Policy::nan && !call.kernels->all_valid[!call.on_theta](x, n, call.args);
  if (refusable) {
    const bool nan_is_left = !call.kernels->all_valid[1](x, n, call.args);
    if (policy == Policy::raise || nan_is_left) return false;
    call.kernels->clip(x, clipped, n, call.args);
    x = clipped;
  }
  call.kernels->exact[op](x, out, n, call.args);
  return true;
}

bool compute(const Call& call, Op op, const void* x, void* out, std::size_t n, Policy policy) {
  return !call.kernels->fast[op](x, out, n, call.args) || redo(call, op, x, out, n, policy);
}

Invalid count_invalid(const Call& call, const void* x, std::size_t n, Policy policy) {
  const bool nan_only = policy == Policy::clip || !call.on_theta;
  alignas(64) unsigned char wide[kBlockBytes];
  const std::size_t step = kBlockBytes / call.compute_size();
  Invalid r;
  FloatMode mode;
  for (std::size_t begin = 0; begin < n; begin += step) {
    const std::size_t m = std::min(step, n - begin);
    const void* block = call.block(static_cast<const char*>(x) + begin * call.size, wide, m);
    for (std::size_t i = 0; i < m; ++i)
      if (!call.kernels->valid[nan_only](block, i, call.args) && r.count++ == 0) r.first = begin + i;
  }
  return r;
}

bool any_refused(const Call& call, const void* x, std::size_t n, Policy policy) {
  const bool nan_only = policy == Policy::clip || !call.on_theta;
  const std::size_t step = kBlockBytes / call.compute_size(), blocks = (n + step - 1) / step;
  std::atomic<bool> refused{false};
  parallel(blocks, n * call.size, [&](std::size_t begin, std::size_t end) {
    alignas(64) unsigned char wide[kBlockBytes];
    for (std::size_t b = begin; b < end && !refused; ++b) {
      const std::size_t i = b * step, m = std::min(step, n - i);
      const void* block = call.block(static_cast<const char*>(x) + i * call.size, wide, m);
      if (!call.kernels->all_valid[nan_only](block, m, call.args)) refused = true;
    }
  });
  return refused;
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

// The number of the storage type next to a bound, not below (up) or not above it.
double round_inwards(double v, Storage storage, bool up) {
  if (storage == kStoredFloat64) return v;
  float f = float(v);
  if (up ? double(f) < v : double(f) > v) f = std::nextafterf(f, up ? INFINITY : -INFINITY);
  if (storage == kStoredFloat32) return double(f);
  const EngineTable& engine = *isas().front().engine;
  const int half = storage - kStoredBFloat16;
  std::uint16_t h;
  engine.narrow[half](&f, &h, 1);
  float back;
  engine.widen[half](&h, &back, 1);
  if (up ? back < f : back > f) {  // the next one in that direction; away from zero the bits grow
    h = back == 0 ? std::uint16_t(up ? 1 : 0x8001) : std::uint16_t(h + ((back > 0) == up ? 1 : -1));
    engine.widen[half](&h, &back, 1);
  }
  return double(back);
}

constexpr const char* kStorageNames[kStorages] = {"float32", "float64", "bfloat16", "float16"};

std::vector<double> effective_params(int map, Storage storage, const std::vector<double>& params) {
  FloatMode mode;  // rounds to the dtype
  const MapInfo& info = map_info(map);
  if (int(params.size()) != info.n_params)
    throw std::invalid_argument(std::string(info.name) + " takes " + std::to_string(info.n_params) +
                                " parameters");
  std::vector<double> r;
  int lower = -1;
  for (int i = 0; i < info.n_params; ++i) {
    const ParamInfo& param = info.params[i];
    double v = params[i];
    const auto refuse = [&](const std::string& why) {
      throw std::invalid_argument(std::string(info.name) + ": " + param.name + " " + why + ", got " +
                                  std::to_string(params[i]));
    };
    if (!std::isfinite(v)) refuse("must be finite");
    if (param.constraint == Constraint::lower_bound) v = round_inwards(v, storage, true);
    if (param.constraint == Constraint::upper_bound) v = round_inwards(v, storage, false);
    if (storage != kStoredFloat64) v = double(float(v));
    if (!std::isfinite(v)) refuse(std::string("overflows ") + kStorageNames[storage]);
    if (param.constraint == Constraint::positive && !(v > 0)) refuse("must be positive");
    if (param.constraint == Constraint::nonzero && v == 0) refuse("must not be zero");
    if (param.constraint == Constraint::lower_bound) lower = i;
    if (param.constraint == Constraint::upper_bound && !(r[lower] < v))
      refuse("must be above low = " + std::to_string(params[lower]) + " in this dtype");
    r.push_back(v);
  }
  return r;
}

Invalid apply(Op op, int map, Storage storage, const std::vector<double>& params, std::size_t n,
              const void* x_, const void* g_, void* out_, Policy policy) {
  if (n == 0) return {};
  const Call call = make_call(op, map, storage, params);
  const char *x = static_cast<const char*>(x_), *g = static_cast<const char*>(g_);
  char* out = static_cast<char*>(out_);
  const bool in_place = x == out || g == out;
  if (in_place && policy != Policy::nan && any_refused(call, x, n, policy))
    return count_invalid(call, x, n, policy);
  const bool stream = n * call.size >= kStreamBytes && !in_place;
  const std::size_t step = (stream ? kStreamBlockBytes : kBlockBytes) / call.compute_size();
  const std::size_t blocks = (n + step - 1) / step;
  const bool direct = !stream && !g && !in_place && !call.narrow;
  // Streamed blocks end where a cache line of `out` ends: a line written in two ways costs a flush.
  const std::size_t lead = stream ? -reinterpret_cast<std::size_t>(out) % kLineBytes / call.size : 0;
  std::atomic<bool> refused{false};
  parallel(blocks, n * call.size, [&](std::size_t begin, std::size_t end) {
    constexpr std::size_t room = kBlockBytes + 2 * kLineBytes;  // step + lead elements
    alignas(64) unsigned char stage[room], wide[room], narrowed[room];
    for (std::size_t b = begin; b < end && !refused; ++b) {
      const std::size_t i = b == 0 ? 0 : std::min(n, lead + b * step);
      const std::size_t m = std::min(n, lead + (b + 1) * step) - i, offset = i * call.size;
      void* to = direct ? static_cast<void*>(out + offset) : stage;
      if (!compute(call, op, call.block(x + offset, wide, m), to, m, policy)) {
        refused = true;
        break;
      }
      if (g) call.engine->multiply[call.dtype](stage, call.block(g + offset, wide, m), stage, m);
      if (direct) continue;
      const void* result = stage;
      if (call.narrow) {
        call.narrow(stage, narrowed, m);
        result = narrowed;
      }
      if (stream)
        call.engine->stream(result, out + offset, m * call.size, x + offset + m * call.size);
      else
        std::memcpy(out + offset, result, m * call.size);
    }
#if defined(__SSE2__)
    _mm_sfence();
#endif
  });
  return refused ? count_invalid(call, x, n, policy) : Invalid{};
}

Invalid log_det(Op op, int map, Storage storage, const std::vector<double>& params, std::size_t rows,
                std::size_t n, const void* x_, double* sums, Op value_op, void* out_, Policy policy) {
  std::fill(sums, sums + rows, 0.0);
  if (n == 0 || rows == 0) return {};
  const Call call = make_call(op, map, storage, params);
  const char* x = static_cast<const char*>(x_);
  char* out = static_cast<char*>(out_);
  if (x == out && policy != Policy::nan && any_refused(call, x, rows * n, policy))
    return count_invalid(call, x, rows * n, policy);
  const std::size_t per_row = (n + kSumBlock - 1) / kSumBlock, blocks = rows * per_row;
  std::vector<double> partial(blocks);
  std::atomic<bool> refused{false};
  parallel(blocks, rows * n * call.size, [&](std::size_t begin, std::size_t end) {
    alignas(64) unsigned char stage[kSumBlock * 8], wide[kSumBlock * 4];
    for (std::size_t b = begin; b < end && !refused; ++b) {
      const std::size_t start = b % per_row * kSumBlock, m = std::min(kSumBlock, n - start);
      const std::size_t offset = (b / per_row * n + start) * call.size;
      const void* block = call.block(x + offset, wide, m);
      if (!compute(call, op, block, stage, m, policy)) {
        refused = true;
        break;
      }
      partial[b] = call.engine->sum[call.dtype](stage, m);
      if (!out) continue;
      const bool direct = x != out && !call.narrow;
      void* to = direct ? static_cast<void*>(out + offset) : stage;
      compute(call, value_op, block, to, m, policy);  // as valid as it was for op
      if (call.narrow)
        call.narrow(stage, out + offset, m);
      else if (!direct)
        std::memcpy(out + offset, stage, m * call.size);
    }
  });
  if (refused) return count_invalid(call, x, rows * n, policy);
  FloatMode mode;
  for (std::size_t r = 0; r < rows; ++r) {  // pairwise over the blocks of a row, in order
    double* p = partial.data() + r * per_row;
    for (std::size_t width = per_row; width > 1; width = (width + 1) / 2) {
      for (std::size_t i = 0; i < width / 2; ++i) p[i] = p[2 * i] + p[2 * i + 1];
      if (width % 2) p[width / 2] = p[width - 1];
    }
    sums[r] = p[0];
  }
  return {};
}

void advise_huge_pages(void* buffer, std::size_t bytes) {
  constexpr std::uintptr_t page = 2u << 20;
  const std::uintptr_t start = (reinterpret_cast<std::uintptr_t>(buffer) + page - 1) / page * page;
  const std::uintptr_t end = (reinterpret_cast<std::uintptr_t>(buffer) + bytes) / page * page;
#if defined(MADV_HUGEPAGE)
  if (start < end) madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);  // advice only
#endif
}

}  // namespace fastmap
