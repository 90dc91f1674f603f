// Asynchronous copies into shared memory and products of bf16 on tensor cores (compute capability 8.0 and up), as the kernels here use
// them.
#pragma once

#include <cstdint>

namespace cairn::select_cuda {

constexpr int kUnitBytes = 16;

// 16 bytes from global to shared memory; zeros if not valid (`from` must be an address nevertheless).
__device__ inline void copy_unit(uint32_t to, const void* from, bool valid) {
  const int bytes = valid ? kUnitBytes : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Four 8 x 8 matrices of bf16; lane l names row l % 8 of matrix l / 8 and gets numbers 2 (l % 4), + 1 of row l / 4 of each.
__device__ inline void load_matrices(uint32_t (&x)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(from)
               : "memory");
}

// c [16,8] += a [16,16] b [16,8]
__device__ inline void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace cairn::select_cuda
