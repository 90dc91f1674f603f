// The world of several processes on c10d's Gloo backend. Private to the room: only gloo.cpp sees c10d's headers, which are heavy.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "cairn/dist/world.h"

namespace cairn {

struct Rendezvous {
  int64_t rank = 0, size = 1;
  std::string address;  // of rank 0, which keeps the store
  int64_t port = 0;
  double timeout_seconds = 300;  // for peers to come, and for each collective
};

// Connects all ranks; UserError with what was waited for when they do not come in time. Tensors on a GPU are staged through host memory.
std::shared_ptr<World> connect_gloo(const Rendezvous& rendezvous);

}  // namespace cairn
