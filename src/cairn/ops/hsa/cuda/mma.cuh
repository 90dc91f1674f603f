// The matrix instruction of a warp, m16n8k16 (PTX ISA 9.7.14.5), and the loads of its operands from shared memory (9.7.14.5.15).
#pragma once

#include <cstdint>

namespace cairn::hsa_cuda {

// Four matrices of 8 x 8 bf16; lane i has the address of row i % 8 of matrix i / 8.
__device__ inline void load_matrices(uint32_t* x, uint32_t at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(at));
}
__device__ inline void load_matrices_transposed(uint32_t* x, uint32_t at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(at));
}
// d[16 x 8] += a[16 x 16] b[16 x 8]
__device__ inline void multiply(float* d, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
__device__ inline void multiply(float* d, const uint32_t* a, const uint32_t* b) { multiply(d, a[0], a[1], a[2], a[3], b[0], b[1]); }

}  // namespace cairn::hsa_cuda
