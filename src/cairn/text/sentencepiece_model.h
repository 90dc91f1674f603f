// A SentencePiece model file as we need it (protobuf wire format, sentencepiece_model.proto), parsed by hand: the file is hostile until
// every piece was checked, and the library must not see one that could make it abort.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace cairn {

struct SentencePieceModel {
  enum Type { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };
  struct Piece {
    std::string text;  // UTF-8; U+2581 stands for a space
    float score = 0;
    int64_t type = kNormal;
    int byte = -1;  // of a piece of type kByte
  };
  std::vector<Piece> pieces;
};

// UserError naming `source` unless the model is well-formed and keeps the contract of text/tokenizer.h: BPE, byte fallback with all 256
// bytes, identity normalisation, no dummy prefix, whitespace kept, id 0 a control piece (the pad token).
SentencePieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& source);

// The trainer writes its number of threads (below 128) into the model. Sets it to the default, so that the file depends on text and options
// only.
void forget_thread_count(std::string* model);

}  // namespace cairn
