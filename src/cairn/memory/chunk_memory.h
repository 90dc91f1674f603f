// The memory of a text: landmarks, keys and values of every complete chunk, held in pages so that growing never copies what is there.
//
//   page j:  landmarks [B,P_j,Q,Dr]   keys, values [B,P_j,S,G,D]      P_j chunks, of which the first `used` are filled
//
// On a GPU landmarks lie on the device, because every token reads all of them; of keys and values it reads a few chunks, which may stay in
// pinned host memory (KeysOn::kHost): kernels fetch them from there.
//
// Landmarks, or keys and values, may be kept as 8-bit rows (EightBit; ops/quantize/rows.h): int8 and one bf16 scale a landmark and
// retrieval head, a token and K/V head. What is added is rounded when it comes; operators read the rows as they lie. Scales lie where
// landmarks do.
//
// Pages start small and double up to a limit, so a short text holds little and a long one wastes at most one page. Chunk numbers are
// absolute (64-bit): the first chunk of the memory has the number first_chunk(). Rows of a batch have equal length. Nothing here needs
// gradients.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "cairn/model/config.h"
#include "cairn/model/model.h"
#include "cairn/ops/gather/gather.h"
#include "cairn/ops/select/select.h"

namespace cairn {

// Where the keys and values of a memory on a GPU lie. On a CPU all are the same.
enum class KeysOn {
  kDevice,
  kHost,    // in pinned host memory
  kMapped,  // of a memory file: in its mapping, registered with the GPU (MemoryFile::load); what is added later: as kHost
};

// What a memory keeps as 8-bit rows; the rest stays in the dtype in which it comes.
struct EightBit {
  bool landmarks = false, kv = false;
  bool any() const { return landmarks || kv; }
};

class ChunkMemory {
 public:
  static constexpr int64_t kSmallestPage = 64, kLargestPage = 4096;  // chunks

  // Pages are allocated in the dtypes and on the device of the first append. largest_page: limit of the doubling, in chunks.
  ChunkMemory(const ModelConfig& config, int64_t batch, int64_t first_chunk = 0, int64_t largest_page = kLargestPage);

  // For an empty memory; what appends makes of it says where keys and values come to lie.
  void place_keys(KeysOn where);
  // For an empty memory: what comes is kept so.
  void keep_as(EightBit eight_bit);
  const EightBit& eight_bit() const { return eight_bit_; }
  // The same chunks with keys and values copied to pinned host memory; landmarks shared.
  ChunkMemory with_keys_on_host() const;

  int64_t batch() const { return batch_; }
  int64_t chunks() const { return chunks_; }            // complete chunks held
  int64_t first_chunk() const { return first_chunk_; }  // absolute number of the first one
  int64_t end_chunk() const { return first_chunk_ + chunks_; }
  int64_t bytes() const;  // allocated, scales and unused slots of the last page included
  int64_t pages() const { return static_cast<int64_t>(pages_.size()); }
  // Chunks from number `first` (absolute) to the end of its page: scores are computed page by page, so memories cut alike give equal bits.
  int64_t page_rest(int64_t first) const;
  int64_t host_bytes() const;  // of bytes(): keys and values in host memory while landmarks are on a GPU
  // What `chunks` chunks of a batch take, without the slack of the last page. element: bytes of a number that is not 8-bit. The second: of
  // it keys and values, without their scales (what KeysOn places).
  static int64_t bytes_for(const ModelConfig& config, int64_t batch, int64_t chunks, int64_t element, EightBit eight_bit = {});
  static int64_t key_bytes_for(const ModelConfig& config, int64_t batch, int64_t chunks, int64_t element, EightBit eight_bit = {});

  // Adds C chunks at the end: landmarks [B,C,Q,Dr], k and v [B,C*S,G,D].
  void append(const ChunkEncoding& encoding);
  // Adds chunks that lie in tensors of someone else (a mapped file, another memory): landmarks [B,C,Q,Dr], k and v [B,C,S,G,D], C >= 1.
  // Nothing is copied but what is kept as 8-bit rows; overwrite() writes into them.
  void adopt(const at::Tensor& landmarks, const at::Tensor& k, const at::Tensor& v);
  // Adds chunks first .. first + count of `other` (absolute numbers there, and kept as here) in the same way.
  void adopt(const ChunkMemory& other, int64_t first, int64_t count);
  // Forgets the chunks from absolute number `end_chunk` on.
  void truncate(int64_t end_chunk);
  // Copies of chunks first .. first + count, 8-bit rows dequantised exactly (fp32), and writing over them; writing a copy back gives the
  // very bits.
  ChunkEncoding copy(int64_t first, int64_t count) const;
  void overwrite(int64_t first, const ChunkEncoding& encoding);

  // The memory of row `row` alone, sharing storage with this one. Its pages are sealed: what it appends goes to pages of its own;
  // overwrite() on either changes both.
  ChunkMemory row(int64_t row) const;
  // All rows, sharing storage in the same way.
  ChunkMemory share() const;
  // A memory of one row as `rows` rows that all read the same storage; what is appended later differs by row.
  ChunkMemory expand(int64_t rows) const;

  // The top_k visible chunks by score for queries rq [B,L,Q,Dr]; visibility carries the position of row 0, its first_chunk is filled in
  // here. index holds absolute numbers, [B,L,Q,N] with N = min(top_k, chunks()), so N may be 0. While a step is recorded
  // (ops/step/kernels.h) this and chunk_pages() hand out pages with the slots that are yet to be filled.
  Selection select(const at::Tensor& rq, int64_t top_k, Visibility visibility) const;

  // Calls f(absolute number of the first chunk, landmarks [B,n,Q,Dr], 8-bit ones dequantised to fp32) for every page in order.
  void for_landmarks(const std::function<void(int64_t first, const at::Tensor& landmarks)>& f) const;

  // Keys and values where they lie.
  ChunkPages chunk_pages() const;

  // Keys and values [B,U*S,G,D] that hold every chunk named in `index` (absolute numbers, -1 unused, [B,...]) and `index` renumbered into
  // them. With one page: the page itself, nothing is copied. Else, and with 8-bit rows, which are dequantised to the dtype in which they
  // came: U = the largest number of different chunks that a row names.
  void gather(const at::Tensor& index, at::Tensor* k, at::Tensor* v, at::Tensor* renumbered) const;

 private:
  struct Tensors {
    at::Tensor landmarks, k, v;                   // [B,P,Q,Dr], [B,P,S,G,D]
    at::Tensor landmark_scale, k_scale, v_scale;  // bf16 [B,P,Q], [B,P,S,G]; defined where the numbers are int8
    static const std::vector<at::Tensor Tensors::*>& all();
  };
  struct Page : Tensors {
    int64_t begin = 0;  // chunks before this page
    int64_t used = 0;
    int64_t capacity = 0;
    bool sealed = false;   // shares storage with another memory: no chunk is added to it
    bool one_row = false;  // the rows are views of one row
  };
  // Calls f(page, offset in page, offset in range, count) for the pieces of chunks first .. first + count (numbers from 0).
  template <typename F>
  void for_pieces(int64_t first, int64_t count, F f) const;
  // As pages hold them.
  Tensors kept(const at::Tensor& landmarks, const at::Tensor& k, const at::Tensor& v) const;
  void write(int64_t first, const Tensors& chunks);  // first: from 0
  void add_page(const Tensors& like, int64_t wanted);
  void add_sealed(Page page);
  bool gathers_pages() const;  // else gather() may hand out the only page itself
  bool keys_apart() const;     // keys and values lie in host memory, landmarks on a GPU

  int64_t batch_, first_chunk_, chunk_size_, heads_, head_dim_, kv_heads_, retrieval_dim_, largest_page_;
  int64_t chunks_ = 0;
  KeysOn keys_on_ = KeysOn::kDevice;
  EightBit eight_bit_;
  at::ScalarType came_as_ = at::kFloat;  // dtype of keys and values before they became 8-bit rows
  std::vector<Page> pages_;
};

}  // namespace cairn
