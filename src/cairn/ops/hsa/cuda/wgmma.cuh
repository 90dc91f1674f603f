// Hopper's warp-group matrix instruction (PTX ISA 9.7.15) and the shared-memory layout that it reads: panels of rows of 128 bytes (64
// bf16), the 16-byte pieces of row r stored at piece XOR (r mod 8), panels 1024-byte aligned.
#pragma once

#include <cstdint>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define CAIRN_HAS_WGMMA 1
#else
#define CAIRN_HAS_WGMMA 0
#endif

namespace cairn::hsa_cuda {

constexpr int kPanelBytes = 64 * 128;

// Matrix descriptor of a panel at a shared-memory address: 128-byte swizzle, 1024 bytes from one group of 8 rows to the next.
__device__ inline uint64_t panel_descriptor(uint32_t address) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62, kEightRows = uint64_t{1024 >> 4} << 32, kLeading = uint64_t{1} << 16;
  return kSwizzle128 | kEightRows | kLeading | ((address & 0x3FFFF) >> 4);
}

// Steps of 16 along the inner dimension of a product, in units of the descriptor's address field.
// Rows are the outer dimension (q, k as they lie): 16 columns further, the next panel after 64.
__device__ constexpr uint32_t step_along_columns(int step) { return static_cast<uint32_t>(step / 4 * (kPanelBytes >> 4) + step % 4 * 2); }
// Rows are the inner dimension (v, transposed operands): 16 rows further.
__device__ constexpr uint32_t step_along_rows(int step) { return static_cast<uint32_t>(step * 128); }

#if CAIRN_HAS_WGMMA
// A warp group gives up all but kCount registers a thread, or waits until it has kCount (PTX ISA 9.7.20.5).
template <int kCount>
__device__ inline void keep_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kCount));
}
template <int kCount>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kCount));
}

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }
template <int kPending>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kPending) : "memory");
}

#define CAIRN_ACC16(d)                                                                                                          \
  "+f"((d)[0]), "+f"((d)[1]), "+f"((d)[2]), "+f"((d)[3]), "+f"((d)[4]), "+f"((d)[5]), "+f"((d)[6]), "+f"((d)[7]), "+f"((d)[8]), \
      "+f"((d)[9]), "+f"((d)[10]), "+f"((d)[11]), "+f"((d)[12]), "+f"((d)[13]), "+f"((d)[14]), "+f"((d)[15])

// d[64 x kN] (+)= A B, A and B in shared memory. kRowsA, kRowsB: the rows of the panel are the inner dimension of the product.
template <int kN, int kRowsA, int kRowsB>
__device__ inline void wgmma(float* d, uint64_t a, uint64_t b, int add) {
  static_assert(kN == 32 || kN == 64);
  if constexpr (kN == 64) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
        "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, p, 1, 1, %35, %36;\n}\n"
        : CAIRN_ACC16(d), CAIRN_ACC16(d + 16)
        : "l"(a), "l"(b), "r"(add), "n"(kRowsA), "n"(kRowsB));
  } else {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, "
        "%16, %17, p, 1, 1, %19, %20;\n}\n"
        : CAIRN_ACC16(d)
        : "l"(a), "l"(b), "r"(add), "n"(kRowsA), "n"(kRowsB));
  }
}

// The same with A in registers: a[0..3] hold rows r, r+8, r, r+8 and columns c, c, c+8, c+8 (pairs) of a 16-column piece.
template <int kN, int kRowsB>
__device__ inline void wgmma_registers(float* d, const uint32_t* a, uint64_t b, int add) {
  static_assert(kN == 32 || kN == 64);
  if constexpr (kN == 64) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
        "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, {%32,%33,%34,%35}, %36, p, 1, 1, %38;\n}\n"
        : CAIRN_ACC16(d), CAIRN_ACC16(d + 16)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(kRowsB));
  } else {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %21, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, "
        "{%16,%17,%18,%19}, %20, p, 1, 1, %22;\n}\n"
        : CAIRN_ACC16(d)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(kRowsB));
  }
}
#undef CAIRN_ACC16

// s[64 x 64] = rows of A (kD columns) times rows of B (kD columns) transposed.
template <int kD>
__device__ inline void product_of_rows(float* s, uint64_t a, uint64_t b) {
#pragma unroll
  for (int i = 0; i < kD / 16; ++i) wgmma<64, 0, 0>(s, a + step_along_columns(i), b + step_along_columns(i), i != 0);
}

// d[64 x kD] (+)= P B, P [64 x 64] in registers, B [64 x kD] as panels.
template <int kD>
__device__ inline void product_with_panel(float* d, const uint32_t (*p)[4], uint64_t b, bool add) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint64_t row = b + step_along_rows(i);
#pragma unroll
    for (int panel = 0; panel < kD / 64; ++panel) {
      wgmma_registers<64, 1>(d + panel * 32, p[i], row + static_cast<uint32_t>(panel * (kPanelBytes >> 4)), add || i != 0);
    }
    if constexpr (kD % 64 != 0) {
      wgmma_registers<32, 1>(d + kD / 64 * 32, p[i], row + static_cast<uint32_t>(kD / 64 * (kPanelBytes >> 4)), add || i != 0);
    }
  }
}

// d[64 x kD] += A^T B, A [64 x 64] one panel, B [64 x kD] panels; the 64 rows of both are summed over.
template <int kD>
__device__ inline void product_over_rows(float* d, uint64_t a, uint64_t b) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint64_t row = b + step_along_rows(i);
#pragma unroll
    for (int panel = 0; panel < kD / 64; ++panel) {
      wgmma<64, 1, 1>(d + panel * 32, a + step_along_rows(i), row + static_cast<uint32_t>(panel * (kPanelBytes >> 4)), 1);
    }
    if constexpr (kD % 64 != 0) {
      wgmma<32, 1, 1>(d + kD / 64 * 32, a + step_along_rows(i), row + static_cast<uint32_t>(kD / 64 * (kPanelBytes >> 4)), 1);
    }
  }
}
#endif  // CAIRN_HAS_WGMMA

}  // namespace cairn::hsa_cuda
