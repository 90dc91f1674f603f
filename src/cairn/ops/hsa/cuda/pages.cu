// A cluster of thread blocks serves 16 heads of a row: a block one slot at a time, its four warps 16 keys of the chunk each at a time. Keys
// and values go from where they lie straight into the registers that the matrix instruction (mma.sync) reads: sums do not care in which
// order their numbers come, so a lane's 16 bytes of a key serve as they are if queries are laid out alike, and the columns of the result
// may stand in any order. The whole chunk is on its way at once, which is what counts where it comes from host memory. The blocks' shares
// are summed through their shared memory, in the order of their ranks. 8-bit rows are made bf16 in registers: a key's scale is a factor of
// its score, a value's scale one of its probability.
#include <cooperative_groups.h>
#include <cuda_bf16.h>

#include "cairn/ops/cuda/bytes.cuh"
#include "cairn/ops/cuda/dependent.cuh"
#include "cairn/ops/cuda/lanes.cuh"
#include "cairn/ops/cuda/vector.cuh"
#include "cairn/ops/hsa/cuda/mma.cuh"
#include "cairn/ops/hsa/cuda/pages.h"

namespace cairn::hsa_cuda {
namespace {

using cuda::kEight;
using cuda::max_lanes;
using cuda::sum_lanes;

[[maybe_unused]] constexpr int kWarps = 4, kThreads = 32 * kWarps, kRows = 16, kKeys = 16;
constexpr int kMostCluster = 8;
[[maybe_unused]] constexpr unsigned kAll = 0xffffffffu;
[[maybe_unused]] constexpr float kEps = 1e-6f, kLog2e = 1.44269504f;

template <int D, typename Table>
struct Shared {
  Table pages;
  float top[kWarps][kRows], sum[kWarps][kRows];
  float part[kWarps][kRows][D];
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

__device__ inline uint32_t pack(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}
__device__ inline uint32_t word_of(const uint4& x, int i) { return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w; }

__device__ inline float softplus(float x) { return x > 20 ? x : log1pf(expf(x)); }

// The weights of the slots of one selection, by each warp for itself; lane l holds slots l, l + 32, ...
class Weights {
 public:
  __device__ Weights(const PagesParams& p, const int64_t* index, const float* score, int lane) : stick_(p.stick_breaking), lane_(lane) {
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int slot = j * 32 + lane;
      used_[j] = slot < p.slots && index[slot] >= 0;
      score_[j] = used_[j] ? score[slot] : 0;
    }
    if (stick_) {
#pragma unroll
      for (int j = 0; j < kEach; ++j) soft_[j] = used_[j] ? softplus(score_[j]) : 0;
      return;
    }
    float top = -INFINITY, sum = 0;
#pragma unroll
    for (int j = 0; j < kEach; ++j) top = used_[j] ? fmaxf(top, score_[j]) : top;
    top_ = max_lanes<32>(top);
#pragma unroll
    for (int j = 0; j < kEach; ++j) sum += used_[j] ? expf(score_[j] - top_) : 0;
    sum_ = sum_lanes<32>(sum);
  }
  __device__ float of(int slot, float score) const {  // of a used one; by the whole warp
    if (!stick_) return expf(score - top_) / sum_;
    float before = 0;
#pragma unroll
    for (int j = 0; j < kEach; ++j) before += j * 32 + lane_ <= slot ? soft_[j] : 0;
    return expf(score - sum_lanes<32>(before));
  }

 private:
  static constexpr int kEach = kMostSlots / 32;
  const bool stick_;
  const int lane_;
  bool used_[kEach];
  float score_[kEach], soft_[kEach], top_ = 0, sum_ = 1;
};

// Eight numbers of a row as they lie, and as bf16.
template <bool BYTES>
struct Eight {
  using Stored = uint4;
  static __device__ Stored none() { return make_uint4(0, 0, 0, 0); }
  static __device__ uint4 numbers(const Stored& x) { return x; }
};
template <>
struct Eight<true> {
  using Stored = uint2;
  static __device__ Stored none() { return make_uint2(0, 0); }
  static __device__ uint4 numbers(const Stored& x) {
    uint4 made;
    cuda::widen_bytes(x.x, made.x, made.y);
    cuda::widen_bytes(x.y, made.z, made.w);
    return made;
  }
};

template <int D, typename Table>
__device__ void attend(const PagesParams& p, const Table& pages) {
  using Row = Eight<Table::kBytes>;
  using Stored = typename Row::Stored;
  constexpr int64_t kSize = Table::kBytes ? 1 : 2;
  constexpr int kPieces = D / 32;       // 16-byte pieces of a key that a lane holds
  constexpr int kSets = (D + 63) / 64;  // columns are made 64 at a time
  constexpr int kColumns = D / 8;       // of a row, that a thread sums over warps and slots
  extern __shared__ __align__(16) unsigned char memory[];
  auto& shared = *reinterpret_cast<Shared<D, Table>*>(memory);
  namespace cg = cooperative_groups;
  const cg::cluster_group cluster = cg::this_cluster();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32, c = lane % 4, line = lane / 4;
  const int ranks = static_cast<int>(cluster.num_blocks()), rank = static_cast<int>(cluster.block_rank());
  const int R = p.heads / p.groups, tiles = (R + kRows - 1) / kRows, work = static_cast<int>(blockIdx.x) / ranks;
  const int tile = work % tiles, g = work / tiles % p.groups;
  const int64_t b = work / tiles / p.groups;

  cuda::let_next_start();
  for (int i = thread; i < p.page_count; i += kThreads) {
    shared.pages.k[i] = pages.k[i], shared.pages.v[i] = pages.v[i];
    shared.pages.begin[i] = pages.begin[i], shared.pages.batch_stride[i] = pages.batch_stride[i];
    if constexpr (Table::kBytes) shared.pages.k_scale[i] = pages.k_scale[i], shared.pages.v_scale[i] = pages.v_scale[i];
  }
  float gain[kPieces][kEight];
#pragma unroll
  for (int v = 0; v < kPieces; ++v) cuda::load_eight(p.gain + v * 32 + c * kEight, gain[v]);
  cuda::wait_for_previous();

  const int64_t selection = (b * p.selections + (p.selections == 1 ? 0 : g)) * p.slots;
  const Weights weights(p, p.index + selection, p.score + selection, lane);
  uint4 q[2][kPieces];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int in_group = tile * kRows + line + 8 * i;
    const auto* from = static_cast<const __nv_bfloat16*>(p.q) + b * p.q_stride + (g * R + min(in_group, R - 1)) * D;
    float x[kPieces][kEight], squares = 0;
#pragma unroll
    for (int v = 0; v < kPieces; ++v) {
      cuda::load_eight(from + v * 32 + c * kEight, x[v]);
#pragma unroll
      for (int j = 0; j < kEight; ++j) squares += x[v][j] * x[v][j];
    }
    squares += __shfl_xor_sync(kAll, squares, 1);
    squares += __shfl_xor_sync(kAll, squares, 2);
    const float scale = rsqrtf(squares / D + kEps);
#pragma unroll
    for (int v = 0; v < kPieces; ++v) {
#pragma unroll
      for (int j = 0; j < kEight; ++j) x[v][j] *= scale * gain[v][j];
      q[i][v] = make_uint4(pack(x[v][0], x[v][1]), pack(x[v][2], x[v][3]), pack(x[v][4], x[v][5]), pack(x[v][6], x[v][7]));
    }
  }
  __syncthreads();  // the table is there

  float total[kColumns] = {};  // row thread / 8, columns thread % 8 * kColumns + ...
  const int units = (p.chunk + kKeys - 1) / kKeys;
  const int64_t token_stride = static_cast<int64_t>(p.groups) * D;
  for (int slot = rank; slot < p.slots; slot += ranks) {
    const int64_t number = p.index[selection + slot], chunk = number - p.first_chunk;
    if (number < 0 || chunk < 0 || chunk >= p.chunks) continue;  // the same for the whole block
    int page = 0;                                                // the last one that begins at or before the chunk
    for (int low = 1, high = p.page_count; low < high;) {
      const int middle = (low + high) / 2;
      if (shared.pages.begin[middle] <= chunk) {
        page = middle;
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    const int64_t at = b * shared.pages.batch_stride[page] + (chunk - shared.pages.begin[page]) * p.chunk_stride + g * D;
    const auto* const keys = static_cast<const unsigned char*>(shared.pages.k[page]) + at * kSize;
    const auto* const values = static_cast<const unsigned char*>(shared.pages.v[page]) + at * kSize;
    [[maybe_unused]] const auto scale_of = [&](const auto& scales, int key) {  // of key or value `key` of the chunk
      if constexpr (Table::kBytes) {
        return key < p.chunk ? __uint_as_float(static_cast<uint32_t>(scales[page][at / D + static_cast<int64_t>(key) * p.groups]) << 16)
                             : 0.F;
      } else {
        return 1.F;
      }
    };
    const float weight = weights.of(slot, p.score[selection + slot]);

    float top[2] = {-INFINITY, -INFINITY}, sum[2] = {}, o[kSets][8][4] = {};
    for (int unit = warp; unit < units; unit += kWarps) {
      const int first = unit * kKeys;
      Stored k[2][kPieces], v[4][kSets];
      float k_scale[2][2], v_scale[2][2];  // of keys t * 8 + 2 * c + e
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        const int key = first + t * 8 + line;
#pragma unroll
        for (int i = 0; i < kPieces; ++i) {
          k[t][i] =
              key < p.chunk ? *reinterpret_cast<const Stored*>(keys + (key * token_stride + i * 32 + c * kEight) * kSize) : Row::none();
        }
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int key = first + 2 * c + j % 2 + j / 2 * 8;
#pragma unroll
        for (int s = 0; s < kSets; ++s) {
          const int column = s * 64 + line * kEight;
          v[j][s] =
              key < p.chunk && column < D ? *reinterpret_cast<const Stored*>(values + (key * token_stride + column) * kSize) : Row::none();
        }
      }
#pragma unroll
      for (int t = 0; t < 2; ++t) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int key = first + t * 8 + 2 * c + e;
          if constexpr (Table::kBytes) {
            k_scale[t][e] = scale_of(shared.pages.k_scale, key), v_scale[t][e] = scale_of(shared.pages.v_scale, key);
          } else {
            k_scale[t][e] = v_scale[t][e] = 1;
          }
        }
      }
      float s[2][4] = {};
#pragma unroll
      for (int t = 0; t < 2; ++t) {
#pragma unroll
        for (int i = 0; i < kPieces; ++i) {
          const uint4 key = Row::numbers(k[t][i]);
          multiply(s[t], q[0][i].x, q[1][i].x, q[0][i].y, q[1][i].y, key.x, key.y);
          multiply(s[t], q[0][i].z, q[1][i].z, q[0][i].w, q[1][i].w, key.z, key.w);
        }
      }
      uint32_t a[4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float highest = top[i];
#pragma unroll
        for (int t = 0; t < 2; ++t) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& x = s[t][2 * i + e];
            x = first + t * 8 + 2 * c + e < p.chunk ? x * k_scale[t][e] * (p.scale * kLog2e) : -INFINITY;
            highest = fmaxf(highest, x);
          }
        }
        highest = fmaxf(highest, __shfl_xor_sync(kAll, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(kAll, highest, 2));  // a number: the unit has a key
        const float shrink = exp2f(top[i] - highest);
        top[i] = highest;
        sum[i] *= shrink;
#pragma unroll
        for (int x = 0; x < kSets; ++x) {
#pragma unroll
          for (int j = 0; j < 8; ++j) o[x][j][2 * i] *= shrink, o[x][j][2 * i + 1] *= shrink;
        }
#pragma unroll
        for (int t = 0; t < 2; ++t) {
          const float x = exp2f(s[t][2 * i] - highest), y = exp2f(s[t][2 * i + 1] - highest);
          sum[i] += x + y;
          a[2 * t + i] = pack(x * v_scale[t][0], y * v_scale[t][1]);
        }
      }
#pragma unroll
      for (int x = 0; x < kSets; ++x) {
        const uint4 value[4] = {Row::numbers(v[0][x]), Row::numbers(v[1][x]), Row::numbers(v[2][x]), Row::numbers(v[3][x])};
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          constexpr uint32_t kLow = 0x5410, kHigh = 0x7632;  // lower or upper halves of two words
          const uint32_t how = j % 2 == 0 ? kLow : kHigh;
          multiply(o[x][j], a[0], a[1], a[2], a[3], __byte_perm(word_of(value[0], j / 2), word_of(value[1], j / 2), how),
                   __byte_perm(word_of(value[2], j / 2), word_of(value[3], j / 2), how));
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      sum[i] += __shfl_xor_sync(kAll, sum[i], 1);
      sum[i] += __shfl_xor_sync(kAll, sum[i], 2);
      if (c == 0) shared.top[warp][line + 8 * i] = top[i], shared.sum[warp][line + 8 * i] = sum[i];
#pragma unroll
      for (int x = 0; x < kSets; ++x) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int column = x * 64 + (2 * c + e) * 8;  // of n-tile j the column beside it by j
#pragma unroll
          for (int j = 0; j < 8; ++j) {
            if (column < D) shared.part[warp][line + 8 * i][column + j] = o[x][j][2 * i + e];
          }
        }
      }
    }
    __syncthreads();
    const int row = thread / 8, column = thread % 8 * kColumns;
    float highest = p.off_by_one ? 0 : -INFINITY, all = 0, share[kWarps];
#pragma unroll
    for (int w = 0; w < kWarps; ++w) highest = fmaxf(highest, shared.top[w][row]);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      share[w] = exp2f(shared.top[w][row] - highest);
      all += share[w] * shared.sum[w][row];
    }
    if (p.off_by_one) all += exp2f(-highest);
    const float factor = weight / all;
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      float x = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) x += share[w] * shared.part[w][row][column + j];
      total[j] += factor * x;
    }
    __syncthreads();
  }

  // The sum over the cluster's blocks.
  float* const mine = &shared.part[0][0][0];  // [16][D]
#pragma unroll
  for (int j = 0; j < kColumns; ++j) mine[thread * kColumns + j] = total[j];
  if (ranks > 1) {
    cluster.sync();
  } else {
    __syncthreads();
  }
  for (int at = rank * kThreads + thread; at < kRows * D; at += ranks * kThreads) {
    float x = 0;
    for (int r = 0; r < ranks; ++r) x += *cluster.map_shared_rank(mine + at, static_cast<unsigned>(r));
    const int in_group = tile * kRows + at / D;
    if (in_group < R) static_cast<__nv_bfloat16*>(p.o)[(b * p.heads + g * R + in_group) * D + at % D] = __float2bfloat16(x);
  }
  if (ranks > 1) cluster.sync();  // others may still read here
}

#endif

template <int D, typename Table>
__global__ void __launch_bounds__(kThreads) pages_kernel(const __grid_constant__ PagesParams p, const __grid_constant__ Table pages) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  attend<D, Table>(p, pages);
#endif
}

template <int D, typename Table>
cudaError_t launch_shape(const PagesParams& p, const Table& pages, cudaStream_t stream) {
  constexpr int kBytes = static_cast<int>(sizeof(Shared<D, Table>));
  if (kBytes > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(pages_kernel<D, Table>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
    if (error != cudaSuccess) return error;
  }
  unsigned cluster = 1;
  while (cluster < kMostCluster && static_cast<int>(cluster) < p.slots) cluster *= 2;
  const int R = p.heads / p.groups, tiles = (R + kRows - 1) / kRows;
  return cuda::launch_dependent(pages_kernel<D, Table>, dim3(static_cast<unsigned>(p.batch * p.groups * tiles) * cluster), kThreads, kBytes,
                                stream, p.ahead, cluster, p, pages);
}

}  // namespace

template <typename Table>
cudaError_t launch_pages(const PagesParams& p, const Table& pages, cudaStream_t stream) {
  switch (p.head_dim) {
    case 32:
      return launch_shape<32>(p, pages, stream);
    case 64:
      return launch_shape<64>(p, pages, stream);
    case 96:
      return launch_shape<96>(p, pages, stream);
    default:
      return launch_shape<128>(p, pages, stream);
  }
}

template cudaError_t launch_pages(const PagesParams&, const PageTable<kMostPagesFew>&, cudaStream_t);
template cudaError_t launch_pages(const PagesParams&, const PageTable<kMostPages>&, cudaStream_t);
template cudaError_t launch_pages(const PagesParams&, const Int8PageTable<kMostPagesFew>&, cudaStream_t);
template cudaError_t launch_pages(const PagesParams&, const Int8PageTable<kMostPages>&, cudaStream_t);

}  // namespace cairn::hsa_cuda
