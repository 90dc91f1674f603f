#include "cairn/text/sentencepiece_model.h"

#include <cmath>
#include <cstring>
#include <unordered_set>

#include "cairn/core/error.h"
#include "cairn/text/utf8.h"

namespace cairn {
namespace {

constexpr size_t kMaxPieces = 2'000'000;
constexpr size_t kMaxPieceBytes = 4096;

// One field of a protobuf message; `number` for varints and fixed types, `bytes` for length-delimited ones.
struct Field {
  uint64_t id = 0;
  int wire = 0;
  uint64_t number = 0;
  std::string_view bytes;
  const char* end = nullptr;  // behind the field
};

class Wire {
 public:
  Wire(std::string_view data, const std::string& source) : data_(data), source_(source) {}

  bool next(Field* field) {
    if (at_ == data_.size()) return false;
    read(field);
    field->end = data_.data() + at_;
    return true;
  }
  [[noreturn]] void fail() const {
    throw UserError(
        "{} is not a tokenizer file: neither a SentencePiece model (malformed or cut off) nor a file that begins with \"cairn-words 1\"",
        source_);
  }

 private:
  void read(Field* field) {
    const uint64_t key = varint();
    *field = {key >> 3, static_cast<int>(key & 7)};
    if (field->id == 0) fail();
    switch (field->wire) {
      case 0:
        field->number = varint();
        return;
      case 1:
        field->number = fixed(8);
        return;
      case 5:
        field->number = fixed(4);
        return;
      case 2: {
        const uint64_t size = varint();
        if (size > data_.size() - at_) fail();
        field->bytes = data_.substr(at_, size);
        at_ += size;
        return;
      }
      default:
        fail();
    }
  }

  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at_ == data_.size()) fail();
      const auto byte = static_cast<unsigned char>(data_[at_++]);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    fail();
  }
  uint64_t fixed(size_t size) {
    if (size > data_.size() - at_) fail();
    uint64_t value = 0;
    std::memcpy(&value, data_.data() + at_, size);
    at_ += size;
    return value;
  }

  std::string_view data_;
  const std::string& source_;
  size_t at_ = 0;
};

// Field numbers and defaults of sentencepiece_model.proto.
struct Flags {
  uint64_t model_type = 1;  // 1 unigram, 2 BPE
  bool byte_fallback = false, add_dummy_prefix = true, remove_extra_whitespaces = true, escape_whitespaces = true, charmap = false;
};

SentencePieceModel::Piece parse_piece(std::string_view bytes, const std::string& source) {
  SentencePieceModel::Piece piece;
  Wire wire(bytes, source);
  for (Field field; wire.next(&field);) {
    if (field.id == 1 && field.wire == 2) {
      piece.text = field.bytes;
    } else if (field.id == 2 && field.wire == 5) {
      const auto bits = static_cast<uint32_t>(field.number);
      std::memcpy(&piece.score, &bits, 4);
    } else if (field.id == 3 && field.wire == 0) {
      if (field.number < 1 || field.number > 6) wire.fail();
      piece.type = static_cast<int64_t>(field.number);
    } else if (field.id <= 3) {
      wire.fail();
    }
  }
  return piece;
}

int parse_byte_piece(const std::string& text) {
  if (text.size() != 6 || text.compare(0, 3, "<0x") != 0 || text[5] != '>') return -1;
  const auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; };
  const int high = digit(text[3]), low = digit(text[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

void check_pieces(SentencePieceModel* model, const std::string& source) {
  std::unordered_set<std::string_view> seen;
  int unknowns = 0, bytes = 0;
  for (size_t id = 0; id < model->pieces.size(); ++id) {
    auto& piece = model->pieces[id];
    if (piece.text.empty() || piece.text.size() > kMaxPieceBytes || piece.text.find('\0') != std::string::npos ||
        find_invalid_utf8(piece.text) >= 0)
      throw UserError("{}: piece {} is empty, too long or not UTF-8: the model is corrupted", source, id);
    if (!std::isfinite(piece.score)) throw UserError("{}: the score of piece {} is not finite: the model is corrupted", source, id);
    if (!seen.insert(piece.text).second)
      throw UserError("{}: piece {} occurs twice (\"{}\"): the model is corrupted", source, id, piece.text);
    int length = 0;
    utf8_at(piece.text, 0, &length);
    const bool one_character = static_cast<size_t>(length) == piece.text.size();
    switch (piece.type) {
      case SentencePieceModel::kUnknown:
      case SentencePieceModel::kControl:
        unknowns += piece.type == SentencePieceModel::kUnknown;
        // Text that holds such a character would not come back.
        if (one_character) throw UserError("{}: control piece {} is a single character, which text may hold", source, id);
        break;
      case SentencePieceModel::kByte:
        piece.byte = parse_byte_piece(piece.text);
        if (piece.byte < 0) throw UserError("{}: piece {} (\"{}\") is no byte of the form <0x0A>", source, id, piece.text);
        ++bytes;
        break;
      default:
        break;
    }
  }
  if (bytes != 256) throw UserError("{}: the model has {} of the 256 byte pieces; train it with byte fallback", source, bytes);
  if (unknowns != 1) throw UserError("{}: the model has {} unknown pieces, must be 1", source, unknowns);
  if (model->pieces[0].type != SentencePieceModel::kControl)
    throw UserError("{}: id 0 must be the pad token (a control piece), is \"{}\"; train with pad_id 0", source, model->pieces[0].text);
}

}  // namespace

SentencePieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& source) {
  SentencePieceModel model;
  Flags flags;
  Wire wire(bytes, source);
  for (Field field; wire.next(&field);) {
    if (field.id > 5) continue;
    if (field.id == 0 || field.wire != 2) wire.fail();
    if (field.id == 1) {
      if (model.pieces.size() == kMaxPieces) throw UserError("{}: more than {} pieces", source, kMaxPieces);
      model.pieces.push_back(parse_piece(field.bytes, source));
    } else if (field.id == 2 || field.id == 3) {
      Wire inner(field.bytes, source);
      for (Field option; inner.next(&option);) {
        if (field.id == 2 && option.id == 3 && option.wire == 0) flags.model_type = option.number;
        if (field.id == 2 && option.id == 35 && option.wire == 0) flags.byte_fallback = option.number != 0;
        if (field.id == 3 && option.id == 2 && option.wire == 2) flags.charmap |= !option.bytes.empty();
        if (field.id == 3 && option.id == 3 && option.wire == 0) flags.add_dummy_prefix = option.number != 0;
        if (field.id == 3 && option.id == 4 && option.wire == 0) flags.remove_extra_whitespaces = option.number != 0;
        if (field.id == 3 && option.id == 5 && option.wire == 0) flags.escape_whitespaces = option.number != 0;
      }
    }
  }
  if (model.pieces.empty()) wire.fail();
  const auto require = [&](bool ok, const char* what) {
    if (!ok)
      throw UserError(
          "{}: this SentencePiece model {}; Cairn's tokenizers give back every text exactly: train one with `cairn tokenizer train`",
          source, what);
  };
  require(flags.model_type == 2, "is not of type BPE");
  require(flags.byte_fallback, "has no byte fallback");
  require(!flags.charmap, "normalises the text (its normalisation must be `identity`)");
  require(!flags.add_dummy_prefix, "adds a space in front of the text (add_dummy_prefix)");
  require(!flags.remove_extra_whitespaces, "removes whitespace (remove_extra_whitespaces)");
  require(flags.escape_whitespaces, "does not escape whitespace (escape_whitespaces)");
  check_pieces(&model, source);
  return model;
}

void forget_thread_count(std::string* model) {
  const std::string source = "the trained tokenizer";
  Wire wire(*model, source);
  for (Field field; wire.next(&field);) {
    if (field.id != 2 || field.wire != 2) continue;
    Wire inner(field.bytes, source);
    for (Field option; inner.next(&option);)
      if (option.id == 16 && option.wire == 0 && option.number < 128)
        (*model)[option.end - 1 - model->data()] = 16;  // one byte; 16 is the default
  }
}

}  // namespace cairn
