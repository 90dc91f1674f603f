// The descriptor of an open extent file, shared by the file object and its mappings; closing it gives up the lock. Private to core.
#pragma once

#include "cairn/core/extent_file.h"

namespace cairn {

struct ExtentFile::Handle {
  explicit Handle(int open_descriptor) : descriptor(open_descriptor) {}
  ~Handle();
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  const int descriptor;
};

}  // namespace cairn
