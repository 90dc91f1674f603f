// Which shape of many_rows.cuh serves an N on this device.
#include "cairn/ops/select/many_rows.cuh"

namespace cairn::select_cuda {
namespace {

// A buffer of a row should leave half for newcomers.
enum class Lists { kShort, kMiddle, kLong };
Lists lists_of(int64_t n) {
  return n <= ShortLists::kKeys / 2 ? Lists::kShort : n <= MiddleLists::kKeys / 2 ? Lists::kMiddle : Lists::kLong;
}

cudaError_t memory_of(int device, Memory* memory) {
  if (const cudaError_t error = cudaDeviceGetAttribute(&memory->block, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
      error != cudaSuccess)
    return error;
  return cudaDeviceGetAttribute(&memory->multiprocessor, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
}

}  // namespace

int64_t many_rows_tile(int64_t n) { return lists_of(n) == Lists::kLong ? LongLists::kRows : ShortLists::kRows; }

int64_t many_rows_blocks(int64_t n) { return lists_of(n) == Lists::kShort ? ShortLists::kBlocks : 1; }

bool many_rows_fit(int64_t n, int device) {
  static_assert(ShortLists::kRows == MiddleLists::kRows && MiddleLists::kBlocks == 1 && LongLists::kBlocks == 1);
  Memory memory = {};
  if (memory_of(device, &memory) != cudaSuccess) return false;
  switch (lists_of(n)) {
    case Lists::kShort:
      return stages_of<ShortLists>(memory) > 0;
    case Lists::kMiddle:
      return stages_of<MiddleLists>(memory) > 0;
    default:
      return stages_of<LongLists>(memory) > 0;
  }
}

cudaError_t launch_many_rows(const Params& p, cudaStream_t stream) {
  int device = 0;
  Memory memory = {};
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  if (const cudaError_t error = memory_of(device, &memory); error != cudaSuccess) return error;
  switch (lists_of(p.n)) {
    case Lists::kShort:
      return launch_short_lists(p, memory, stream);
    case Lists::kMiddle:
      return launch_middle_lists(p, memory, stream);
    default:
      return launch_long_lists(p, memory, stream);
  }
}

}  // namespace cairn::select_cuda
