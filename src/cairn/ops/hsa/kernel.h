// The inner loops of memory attention on a CPU: one chunk against a tile of query rows, all in fp32. Written once (kernel_body.h), compiled
// for several instruction sets (kernel_*.cpp), chosen at run time. Everything around them (which rows meet which chunk) is cpu.cpp.
//
// Padded sizes: Sp and Dp are S and D rounded up to `lanes`. Rows of a tile are tokens times the heads of one group.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace cairn::hsa_cpu {

struct ForwardTile {
  int64_t rows, S, Sp, D, Dp;
  float scale;  // 1 / sqrt(D)
  bool off_by_one;
  const float* q;   // [rows,Dp]
  const float* kt;  // [D,Sp] keys, transposed
  const float* v;   // [S,Dp]
  const float* w;   // [rows] chunk weights
  float* const* o;  // [rows] -> [Dp]: w * softmax(q k) v is added
  float* lse;       // [rows] written, or null
  float* scratch;   // rows * (Sp + Dp)
};

struct BackwardTile {
  int64_t rows, S, Sp, D, Dp;
  float scale;
  bool off_by_one;
  const float* q;     // [rows,Dp], columns D.. zero
  const float* g;     // [rows,Dp] gradient of o, columns D.. zero
  const float* kt;    // [D,Sp]
  const float* vt;    // [D,Sp]
  const float* k;     // [S,Dp]
  const float* w;     // [rows]
  const float* dlse;  // [rows] or null
  float* dq;          // [rows,Dp] written
  float* dw;          // [rows] written: <g, o_k>
  float* dk;          // [S,Dp] added to
  float* dv;          // [S,Dp] added to
  float* scratch;     // rows * 2 * Sp
};

struct Kernel {
  const char* name;
  int64_t lanes;
  void (*forward)(const ForwardTile&);
  void (*backward)(const BackwardTile&);
  // `count` rows of D numbers (fp32 or bf16), `stride` elements apart -> dst [count,Dp], padding zero.
  void (*load_rows)(float* dst, int64_t Dp, const void* src, int64_t stride, int64_t count, int64_t D, bool bf16);
  // Rows [count,Dp] -> D numbers each in fp32 or bf16 (nearest even), `stride` elements apart.
  void (*store_rows)(void* dst, int64_t stride, bool bf16, const float* src, int64_t Dp, int64_t count, int64_t D);
  // src [S,Dp] -> dst [D,Sp], columns S.. zero.
  void (*transpose)(float* dst, int64_t Sp, const float* src, int64_t Dp, int64_t S, int64_t D);
  // dst[i] += src[i].
  void (*add)(float* dst, const float* src, int64_t count);
};

// Null where the program was built without that instruction set.
const Kernel* kernel_avx512();
const Kernel* kernel_avx2();
const Kernel* kernel_generic();

// The kernels that this machine can run, best first; never empty.
const std::vector<const Kernel*>& kernels();
// The one in use: the best, unless a test chose another by name ("avx512", "avx2", "generic"; "" = the best).
const Kernel& kernel();
void use_kernel(const std::string& name);

}  // namespace cairn::hsa_cpu
