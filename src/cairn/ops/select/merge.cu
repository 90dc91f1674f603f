// The N best of a row's lists. Lists are descending, so a bar that holds back nearly all others comes cheap: with the d-th keys of P lists,
// d P >= N, at least N keys are no less than the ceil(N / d)-th largest of them.
#include "cairn/ops/cuda/dependent.cuh"
#include "cairn/ops/select/few_rows.cuh"
#include "cairn/ops/select/step_launch.h"

namespace cairn::select_cuda {
namespace {

template <int THREADS, int BUFFER>
__global__ void __launch_bounds__(THREADS) merge_kernel(const __grid_constant__ Params p) {
  static_assert(kMostChosen + THREADS <= BUFFER && kMostParts <= BUFFER);
  __shared__ TopBuffer<BUFFER> buffer;
  const int n = static_cast<int>(p.n), parts = static_cast<int>(p.parts);
  const int64_t row = blockIdx.x;
  const uint64_t* lists = p.partial + row * parts * n;
  cuda::let_next_start();
  cuda::wait_for_previous();
  const int depth = (n + parts - 1) / parts, rank = (n + depth - 1) / depth;
  int size = 2;
  while (size < parts) size <<= 1;
  for (int i = threadIdx.x; i < size; i += THREADS) buffer.keys[i] = i < parts ? lists[static_cast<int64_t>(i) * n + depth - 1] : 0;
  block_sort(buffer.keys, size);
  const uint64_t lowest = buffer.keys[rank - 1];
  __syncthreads();
  if (threadIdx.x == 0) buffer.clear();
  __syncthreads();
  // Each thread walks down one list at a time.
  for (int first = 0; first < parts; first += THREADS) {
    const uint64_t* list = first + static_cast<int>(threadIdx.x) < parts ? lists + static_cast<int64_t>(first + threadIdx.x) * n : nullptr;
    for (int i = 0; i < n; ++i) {
      bool full = false;
      if (list != nullptr) {
        const uint64_t key = list[i];
        if (key == 0 || key < lowest || key <= buffer.bar) {
          list = nullptr;
        } else {
          full = buffer.push(key, BUFFER - THREADS);
        }
      }
      if (__syncthreads_or(full)) buffer.cut(n);
      if (!__syncthreads_or(list != nullptr)) break;
    }
  }
  __syncthreads();
  buffer.cut(n);
  write_sorted(p, row, buffer.keys);
}

}  // namespace

cudaError_t launch_merge(const Params& p, cudaStream_t stream) { return launch_merge(p, /*ahead=*/false, stream); }
cudaError_t launch_merge(const Params& p, bool ahead, cudaStream_t stream) {
  const auto rows = static_cast<unsigned>(p.batch * p.rows * p.heads);
  if (p.parts > 128) {
    return cuda::launch_dependent(merge_kernel<512, 1024>, dim3(rows), 512, 0, stream, ahead, /*cluster=*/1, p);
  }
  return cuda::launch_dependent(merge_kernel<128, 1024>, dim3(rows), 128, 0, stream, ahead, /*cluster=*/1, p);
}

int64_t few_rows_tile(Type query, Type landmark, int64_t width) {
  if (query == Type::kBFloat16 && landmark == Type::kBFloat16) return kTensorTile;
  const auto tile = [](auto shape) { return static_cast<int64_t>(decltype(shape)::kTile); };
  return landmark == Type::kFloat ? with_shape<float>(width, tile) : with_shape<BFloat16>(width, tile);
}

cudaError_t launch_few_rows(const Params& p, cudaStream_t stream) {
  if (p.landmark_type == Type::kFloat) return launch_few_rows_fp32(p, stream);
  return p.query_type == Type::kFloat ? launch_few_rows_bf16(p, stream)
                                      : launch_few_rows_tensor(p, /*table=*/nullptr, /*position=*/nullptr, /*ahead=*/false, stream);
}

}  // namespace cairn::select_cuda
