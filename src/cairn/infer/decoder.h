// Greedy generation: the most likely token again and again. Rows of a batch go in step; a row may be given its next tokens for a while
// before its own begin, so that prompts that end at different places share one batch.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "cairn/infer/reader.h"

namespace cairn {

// A batch of prompts: given [B,n] int64, row r's own tokens begin at column begin[r] (1 <= begin[r]; the columns from there on are not
// looked at) and end before end[r] <= n. Advances `state` over columns 0 .. max(end) - 1. Returns each row's tokens begin[r] .. end[r].
std::vector<std::vector<int32_t>> generate(const Reader& reader, ReaderState& state, const at::Tensor& given,
                                           const std::vector<int64_t>& begin, const std::vector<int64_t>& end);

// `count` tokens behind `prompt` [B,m], m >= 1.
std::vector<std::vector<int32_t>> generate(const Reader& reader, ReaderState& state, const at::Tensor& prompt, int64_t count);

}  // namespace cairn
