// Hopper's bulk tensor copies (PTX ISA 9.7.9.27) and the shared-memory barriers that say when they have arrived (9.7.13.15).
#pragma once

#include <cuda.h>

#include <cstdint>

#include "cairn/ops/hsa/cuda/wgmma.cuh"

namespace cairn::hsa_cuda {

#if CAIRN_HAS_WGMMA
__device__ inline void barrier_init(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Makes initialised barriers known to the copy engine; a thread-block barrier must follow.
__device__ inline void barrier_init_done() {
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}
__device__ inline void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(barrier) : "memory");
}
// Arrives `count` times, also for others.
__device__ inline void barrier_arrive_for(uint32_t barrier, uint32_t count) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;\n" ::"r"(barrier), "r"(count) : "memory");
}
// Arrives, and lets the phase wait for `bytes` of copies, too.
__device__ inline void barrier_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(barrier), "r"(bytes) : "memory");
}
// Waits for the end of the phase of this parity; a fresh barrier is in phase 0, and the phase "before" it, parity 1, counts as over.
__device__ inline void barrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1, 0x989680;\n"
      "@!done bra again;\n}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// The same for a warp that can wait a little longer, some kNanoseconds: spinning would take turns from those that compute.
template <int kNanoseconds = 40>
__device__ inline void barrier_wait_idly(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1, 0x989680;\n"
      "@done bra over;\n"
      "nanosleep.u32 %2;\n"
      "bra again;\n"
      "over:\n}\n" ::"r"(barrier),
      "r"(parity), "n"(kNanoseconds)
      : "memory");
}

// Fetches the description of a tensor before its first use.
__device__ inline void prefetch_map(const CUtensorMap* map) { asm volatile("prefetch.tensormap [%0];\n" ::"l"(map) : "memory"); }
// Fetches the box of `map` at (column, head, token, batch) to `to` and reports to `barrier`.
__device__ inline void copy_box(uint32_t to, const CUtensorMap* map, uint32_t barrier, int column, int head, int token, int batch) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];\n" ::"r"(to),
      "l"(map), "r"(barrier), "r"(column), "r"(head), "r"(token), "r"(batch)
      : "memory");
}
// The same for bytes as they lie; everything a multiple of 16.
__device__ inline void copy_bytes(uint32_t to, const void* from, int bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(to), "l"(from), "r"(bytes),
               "r"(barrier)
               : "memory");
}

// 16 bytes by this thread, without waiting; arrive_after_copies() arrives once all of them so far are there. For racecheck, which does not
// follow that either (see kArrivals), by ordinary loads and stores.
__device__ inline void copy_16(uint32_t to, const void* from) {
#if defined(CAIRN_RACECHECK)
  const uint4 x = __ldg(static_cast<const uint4*>(from));
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};\n" ::"r"(to), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to), "l"(from) : "memory");
#endif
}
__device__ inline void arrive_after_copies(uint32_t barrier) {
#if defined(CAIRN_RACECHECK)
  barrier_arrive(barrier);
#else
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];\n" ::"r"(barrier) : "memory");
#endif
}

// Makes ordinary writes to shared memory visible to the matrix unit; a barrier must follow.
__device__ inline void fence_shared_for_matrix() { asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory"); }
// Between ordinary writes of partial results and the copies that fetch them.
__device__ inline void fence_global_for_copies() { asm volatile("fence.proxy.async.global;\n" ::: "memory"); }
// The four warps that compute.
__device__ inline void consumer_barrier() { asm volatile("bar.sync 1, 128;\n" ::: "memory"); }
#endif

}  // namespace cairn::hsa_cuda
