// A model folder made ready to be asked: weights, tokenizer, reader, and the header of the result file. Every command that evaluates starts
// here.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "cairn/eval/eval_json.h"
#include "cairn/infer/reader.h"
#include "cairn/text/tokenizer.h"

namespace cairn {

struct OpenOptions {
  std::string folder;                                      // model.safetensors, config.json, tokenizer
  std::string device = "cpu";                              // cpu | cuda
  std::string precision = "auto";                          // fp32 | bf16 | auto: fp32 on a CPU, bf16 on a GPU
  int64_t segment = 0, top_k = 0;                          // as in ReaderOptions
  std::string memory_on = "device";                        // device | host | mapped: ReaderOptions::keys; only device on a CPU
  std::string landmark_dtype = "auto", kv_dtype = "auto";  // auto | int8: ReaderOptions::eight_bit
  bool several = false;                    // share memories with the processes that were started together (World::from_environment)
  std::shared_ptr<World> world;            // or with these
  std::optional<int64_t> training_length;  // missing: what the training wrote beside the weights, if anything
};

struct OpenedModel {
  ModelConfig config;
  std::shared_ptr<const Tokenizer> tokenizer;
  Reader reader;
  EvalHeader header;       // without haystack and seed, which belong to the samples
  bool own_words = false;  // the tokenizer is that of word_pairs: no other task can be asked
};

// The device of that name if this program and machine have it; cuda: local_gpu(). UserError otherwise.
at::Device parse_device(const std::string& name);

// What `--landmark-dtype` and `--kv-dtype` say. UserError for other words than auto and int8.
EightBit parse_eight_bit(const std::string& landmark_dtype, const std::string& kv_dtype);

// UserError: no such device, a broken folder, or a tokenizer with more tokens than the model.
OpenedModel open_model(const OpenOptions& options);

}  // namespace cairn
