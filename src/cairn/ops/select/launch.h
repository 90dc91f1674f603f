// Landmark selection on a GPU: what the kernels take. Contract: select.h. Raw pointers, 64-bit strides in elements, no torch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace cairn::select_cuda {

constexpr int kMostPages = 48;    // pages of landmarks a launch takes (kernel parameters hold the table); more pages, more launches
constexpr int kMostChosen = 128;  // largest N
constexpr int kMostWidth = 1024;  // largest Dr
constexpr int kMostParts = 1024;  // largest number of lists a row
constexpr int kFewRows = 8;       // rows that share landmarks and are scored in one pass over them

enum class Type : int { kFloat, kBFloat16 };

struct Page {
  const void* data;      // landmark (b,i,q,x) at data[b batch_stride + (i - begin) chunk_stride + q head_stride + x]
  int64_t begin, count;  // its chunks are begin .. begin + count - 1, numbers relative to all landmarks
  int64_t batch_stride, chunk_stride, head_stride;
  int64_t first_tile;  // few rows: tiles in the pages before
};

// Rows that share landmarks form a group: the L tokens of one (b,q), or the B L tokens of one q if all texts share one memory.
struct Params {
  const void* query;  // rq [B,L,Q,Dr]
  int64_t query_batch_stride, query_row_stride, query_head_stride;
  int64_t batch, rows, heads, width;             // B, L, Q, Dr
  int64_t position, chunk, first_chunk, chunks;  // row t sees chunk i iff (first_chunk + i + 1) chunk <= position + t; C
  int64_t n;                                     // N
  float scale;                                   // 1 / sqrt(Dr)
  Type query_type, landmark_type;
  bool shared;  // one memory for all B
  int page_count;
  int64_t tiles;                            // few rows: tiles of all pages here
  int64_t begin, end;                       // many rows: chunks of all pages here
  uint64_t* partial;                        // keys [B L Q][parts][N], each list descending, 0 in unused slots
  int64_t parts, first_part, launch_parts;  // lists a row; the first of this launch, and how many it makes
  int64_t* index;                           // [B,L,Q,N]; with one part, launches write the result themselves
  float* score;
  Page pages[kMostPages];
};

// Chunks that a block scores at a time; pages are cut into tiles of that many.
int64_t few_rows_tile(Type query_type, Type landmark_type, int64_t width);

// At most kFewRows rows a group: every landmark is read once. Writes lists first_part .. first_part +
// launch_parts - 1 of every row, or, with parts == 1, index and score.
cudaError_t launch_few_rows(const Params& params, cudaStream_t stream);

// Any number of rows of bf16 against bf16 landmarks, on tensor cores. With parts == 1 writes index and score, otherwise the lists.
cudaError_t launch_many_rows(const Params& params, cudaStream_t stream);
// Rows of a tile, and blocks that share a multiprocessor, for this N; false where the device has too little shared memory for it.
int64_t many_rows_tile(int64_t n);
int64_t many_rows_blocks(int64_t n);
bool many_rows_fit(int64_t n, int device);

// The N best of each row's lists, nearest first, into index and score.
cudaError_t launch_merge(const Params& params, cudaStream_t stream);

// The choice from scores that are there (select_from_scores): fp32 [count][chunks], count = B rows heads.
constexpr int64_t kMostGivenChunks = 1024, kMostGivenChosen = 64;
constexpr int kNoiseBits = 16;

struct GivenParams {
  const float* score;
  int64_t count, rows, heads, chunks, n;
  int64_t position, chunk, first_chunk;  // as in Params
  const float* quantiles;                // [2^16] of the Gumbel distribution, or null: no noise
  uint64_t noise_key;
  int64_t noise_row, noise_position;  // of the first sequence and its row 0
  const int64_t* noise_row_more;      // on the device, added to noise_row; null: nothing
  int64_t* index;                     // [count][n], nearest first, -1 unused
  float* chosen_score;                // [count][n], 0 where unused
};
cudaError_t launch_given(const GivenParams& params, cudaStream_t stream);

}  // namespace cairn::select_cuda
