#include "cairn/ops/select/many_rows.cuh"

namespace cairn::select_cuda {
namespace {

constexpr int64_t kShortest = ShortLists::kKeys / 2;  // longest list that leaves half of the buffer for newcomers

cudaError_t shared_limit(int device, int* bytes) { return cudaDeviceGetAttribute(bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device); }

}  // namespace

cudaError_t launch_long_lists(const Params& p, int most_bytes, cudaStream_t stream) {
  return launch_many<LongLists>(p, most_bytes, stream);
}

int64_t many_rows_tile(int64_t n) { return n <= kShortest ? ShortLists::kRows : LongLists::kRows; }

bool many_rows_fit(int64_t n, int device) {
  int bytes = 0;
  if (shared_limit(device, &bytes) != cudaSuccess) return false;
  return (n <= kShortest ? ShortLists::bytes(kFewestStages) : LongLists::bytes(kFewestStages)) + 1024 <= bytes;
}

cudaError_t launch_many_rows(const Params& p, cudaStream_t stream) {
  int device = 0, bytes = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  if (const cudaError_t error = shared_limit(device, &bytes); error != cudaSuccess) return error;
  return p.n <= kShortest ? launch_short_lists(p, bytes - 1024, stream) : launch_long_lists(p, bytes - 1024, stream);
}

}  // namespace cairn::select_cuda
