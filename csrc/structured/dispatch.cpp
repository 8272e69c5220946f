#include "structured/dispatch.hpp"

#include <cstring>
#include <limits>
#include <mutex>

#include "engine/blocks.hpp"
#include "fastmap_registry.hpp"

#define FM_DECLARE(map, isa) extern "C" const fastmap::StructuredTable fastmap_structured_##map##_##isa;
#define FM_DECLARE_ALL(isa) FASTMAP_FOR_STRUCTURED(FM_DECLARE, isa)
FASTMAP_FOR_ISAS(FM_DECLARE_ALL)

namespace fastmap {
namespace {

#define FM_ADDRESS(map, isa) &fastmap_structured_##map##_##isa,
#define FM_ROW(isa) {FASTMAP_FOR_STRUCTURED(FM_ADDRESS, isa)},
constexpr std::size_t kMaps = 0
#define FM_ONE(map, isa) +1
    FASTMAP_FOR_STRUCTURED(FM_ONE, any);
const StructuredTable* const tables[][kMaps] = {FASTMAP_FOR_ISAS(FM_ROW)};

const StructuredTable& table_of(int map) { return *tables[&active_isa() - isas().data()][map]; }

constexpr std::size_t kMostLanes = 32, kTileElements = 32768;

// The offsets of all elements of a row.
std::vector<std::ptrdiff_t> offsets_of(const RowBuffer& buffer, std::size_t n) {
  std::vector<std::ptrdiff_t> offsets{0};
  for (const std::ptrdiff_t stride : buffer.row) {
    std::vector<std::ptrdiff_t> longer;
    for (const std::ptrdiff_t offset : offsets)
      for (std::size_t i = 0; i < n; ++i) longer.push_back(offset + std::ptrdiff_t(i) * stride);
    offsets = std::move(longer);
  }
  return offsets;
}

template <class T> class RowPass {
 public:
  RowPass(const RowCall& call)
      : c_(call),
        info_(structured_info(call.map)),
        kernels_(table_of(call.map).kernels[sizeof(T) == 4 ? kFloat32 : kFloat64]),
        parts_(call.tangent ? 2 : 1),
        theta_size_(info_.theta_axes == 1 ? call.n : call.n * call.n),
        z_size_(z_size(info_.z_size, call.n)),
        x_is_theta_(call.op == kRowForward || call.op == kRowForwardPullback),
        is_pullback_(call.op == kRowForwardPullback || call.op == kRowInversePullback) {
    for (const std::size_t length : c_.leading) rows_ *= length;
    x_at_ = offsets(c_.x, x_is_theta_);
    direction_at_ = offsets(c_.direction, x_is_theta_);
    grad_at_ = offsets(c_.grad, !x_is_theta_);
    out_at_ = offsets(c_.out, x_is_theta_ == is_pullback_);
  }

  RefusedRows run() {
    if (rows_ == 0) return {};
    lanes_ = std::max<std::size_t>(1, std::min({kMostLanes, kTileElements / theta_size_, rows_}));
    const std::size_t tiles = (rows_ + lanes_ - 1) / lanes_;
    parallel(tiles, rows_ * (theta_size_ + z_size_) * sizeof(T) * 4, [&](std::size_t begin, std::size_t end) {
      Room room(*this);
      RefusedRows refused;
      for (std::size_t t = begin; t < end; ++t) work(t * lanes_, room, refused);
      if (refused.count == 0) return;
      const std::lock_guard<std::mutex> lock(mutex_);
      refused_.first = refused_.count ? std::min(refused_.first, refused.first) : refused.first;
      refused_.count += refused.count;
    });
    return refused_;
  }

 private:
  // What a thread works in.
  struct Room {
    std::vector<T> memory;
    T *theta, *z, *log_det, *grad_theta, *grad_z, *grad_log_det, *scratch, *check;
    bool refused[kMostLanes];

    explicit Room(const RowPass& p) {
      const std::size_t t = p.theta_size_, z_n = p.z_size_, own = scratch_size(t, z_n);
      const std::size_t lane = p.parts_ * p.lanes_;
      memory.resize((2 * t + 2 * z_n + own + 4) * lane);
      T* next = memory.data();
      const auto take = [&](std::size_t n) {
        T* const here = next;
        next += n * lane;
        return here;
      };
      theta = take(t), z = take(z_n), grad_theta = take(t), grad_z = take(z_n);
      log_det = take(1), grad_log_det = take(1), check = take(1), scratch = take(own);
    }
  };

  std::vector<std::ptrdiff_t> offsets(const RowBuffer& buffer, bool is_theta) const {
    return buffer.data ? offsets_of(buffer, is_theta ? c_.n : z_size_) : std::vector<std::ptrdiff_t>{};
  }
  std::ptrdiff_t row_offset(const RowBuffer& buffer, std::size_t row) const {
    std::ptrdiff_t offset = 0;
    for (std::size_t d = c_.leading.size(); d-- > 0; row /= c_.leading[d])
      offset += std::ptrdiff_t(row % c_.leading[d]) * buffer.leading[d];
    return offset;
  }

  // Rows from `first` on into one of the `parts` of the numbers of a tile; marks rows that are not finite.
  void gather(const RowBuffer& buffer, const std::vector<std::ptrdiff_t>& at, std::size_t first,
              std::size_t lanes, std::size_t parts, std::size_t part, T* to, bool* refused) const {
    for (std::size_t l = 0; l < lanes; ++l) {
      const char* const row = buffer.data + row_offset(buffer, first + l);
      T* place = to + l * parts + part;
      T difference = 0;  // x - x is 0 where x is finite
      for (const std::ptrdiff_t offset : at) {
        T x;
        std::memcpy(&x, row + offset, sizeof x);
        *place = x;
        place += lanes * parts;
        difference += x - x;
      }
      if (refused && !(difference == 0)) refused[l] = true;
    }
  }
  // The values, or the tangents, to `out`; NaN in refused rows.
  void scatter(std::size_t first, std::size_t lanes, const T* from, bool must_be_finite,
               bool* refused) const {
    const T nan = std::numeric_limits<T>::quiet_NaN();
    for (std::size_t l = 0; l < lanes; ++l) {
      char* const row = c_.out.data + row_offset(c_.out, first + l);
      const T* place = from + l * parts_ + (parts_ - 1);
      T difference = 0;
      for (const std::ptrdiff_t offset : out_at_) {
        const T x = refused[l] || *place != *place ? nan : *place;
        std::memcpy(row + offset, &x, sizeof x);
        place += lanes * parts_;
        difference += x - x;
      }
      if (!must_be_finite || refused[l] || difference == 0) continue;
      refused[l] = true;
      for (const std::ptrdiff_t offset : out_at_) std::memcpy(row + offset, &nan, sizeof nan);
    }
  }

  void work(std::size_t first, Room& room, RefusedRows& result) const {
    const std::size_t lanes = std::min(lanes_, rows_ - first);
    bool* const refused = room.refused;
    std::fill(refused, refused + lanes, false);
    T *const x = x_is_theta_ ? room.theta : room.z, *const y = x_is_theta_ ? room.z : room.theta,
             *const grad_x = x_is_theta_ ? room.grad_theta : room.grad_z,
             *const grad_y = x_is_theta_ ? room.grad_z : room.grad_theta;
    const Tile tile{c_.n,         lanes,           room.theta,  room.z,
                    room.log_det, room.grad_theta, room.grad_z, room.grad_log_det,
                    room.scratch};
    if (x_is_theta_ || !c_.tangent) gather(c_.x, x_at_, first, lanes, 1, 0, x, refused);
    if (x_is_theta_) {
      kernels_.check(tile, room.check);
      for (std::size_t l = 0; l < lanes; ++l) refused[l] |= !(room.check[l] == 0);
    }
    if (c_.tangent) {
      gather(c_.x, x_at_, first, lanes, 2, 0, x, refused);
      gather(c_.direction, direction_at_, first, lanes, 2, 1, x, nullptr);
    }
    if (is_pullback_) {
      std::fill(grad_y, grad_y + grad_at_.size() * lanes * parts_, T(0));
      gather(c_.grad, grad_at_, first, lanes, parts_, 0, grad_y, nullptr);
      std::fill(room.grad_log_det, room.grad_log_det + lanes * parts_, T(0));
      for (std::size_t l = 0; c_.grad_log_det && l < lanes; ++l)
        room.grad_log_det[l * parts_] = T(c_.grad_log_det[first + l]);
    }
    (c_.tangent ? kernels_.tangent : kernels_.plain)[c_.op](tile);
    if (c_.out.data)
      scatter(first, lanes, is_pullback_ ? grad_x : y, c_.op == kRowForward && !c_.tangent, refused);
    for (std::size_t l = 0; l < lanes; ++l) {
      if (refused[l] && result.count++ == 0) result.first = first + l;
      if (!c_.log_det) continue;
      const T r = room.log_det[l * parts_ + (parts_ - 1)];
      c_.log_det[first + l] = refused[l] || r != r ? std::numeric_limits<double>::quiet_NaN() : double(r);
    }
  }

  const RowCall& c_;
  const StructuredInfo& info_;
  const RowKernels& kernels_;
  std::size_t parts_, theta_size_, z_size_, rows_ = 1, lanes_ = 1;
  bool x_is_theta_, is_pullback_;
  std::vector<std::ptrdiff_t> x_at_, direction_at_, grad_at_, out_at_;
  std::mutex mutex_;
  RefusedRows refused_;
};

}  // namespace

std::size_t structured_count() { return kMaps; }
const StructuredInfo& structured_info(int map) { return *tables[0][map]->info; }
const char* structured_class(int map) {
#define FM_NAME(map, arg) #map,
  static constexpr const char* names[] = {FASTMAP_FOR_STRUCTURED(FM_NAME, any)};
  return names[map];
}

RefusedRows run_rows(const RowCall& call) {
  return call.dtype == kFloat32 ? RowPass<float>(call).run() : RowPass<double>(call).run();
}

}  // namespace fastmap
