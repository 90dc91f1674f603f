// The world of several processes on c10d's Gloo backend. Private to the room: only gloo.cpp and watch.cpp see c10d's headers, which are
// heavy.
#pragma once

#include <memory>

#include "cairn/dist/launch.h"
#include "cairn/dist/world.h"

namespace cairn {

// Connects all ranks; UserError with what was waited for when they do not come in time. Tensors on a GPU go through the collectives of
// gpu.h if `device` is one and the program has them, else through host memory.
std::shared_ptr<World> connect_gloo(const Rendezvous& rendezvous, at::Device device);

}  // namespace cairn
