#include "cairn/dist/world.h"

#include <charconv>
#include <cstdlib>
#include <cstring>

#include "cairn/core/error.h"
#include "cairn/dist/gloo.h"

namespace cairn {
namespace {

class SingleWorld : public World {
 public:
  int64_t rank() const override { return 0; }
  int64_t size() const override { return 1; }
  void all_reduce_sum(at::Tensor&) override {}
  at::Tensor all_gather(const at::Tensor& tensor) override { return tensor.detach(); }
  void broadcast(at::Tensor&, int64_t root) override { CAIRN_CHECK(root == 0, "root {} in a world of one", root); }
  void barrier() override {}
};

// The value of an environment variable as an integer in [low, high]; `missing` (may be null) is the error's second half when it is not set.
int64_t environment_integer(const char* name, int64_t low, int64_t high, const std::string& missing) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') throw UserError("{} is not set: {}", name, missing);
  int64_t value = 0;
  const char* end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, value);
  if (error != std::errc() || stop != end || value < low || value > high) {
    throw UserError("{}={} is not an integer from {} to {}", name, text, low, high);
  }
  return value;
}

}  // namespace

std::shared_ptr<World> World::single() { return std::make_shared<SingleWorld>(); }

std::shared_ptr<World> World::from_environment() {
  const char* size_text = std::getenv("WORLD_SIZE");
  if (size_text == nullptr || *size_text == '\0') return single();
  Rendezvous r;
  r.size = environment_integer("WORLD_SIZE", 1, 65536, "");
  if (r.size == 1) return single();
  const std::string need = fmt::format(
      "a run of {} processes (WORLD_SIZE) needs RANK, MASTER_ADDR and MASTER_PORT too; torchrun sets them, or unset WORLD_SIZE for one "
      "process",
      r.size);
  r.rank = environment_integer("RANK", 0, r.size - 1, need);
  const char* address = std::getenv("MASTER_ADDR");
  if (address == nullptr || *address == '\0') throw UserError("MASTER_ADDR is not set: {}", need);
  r.address = address;
  r.port = environment_integer("MASTER_PORT", 1, 65535, need);
  if (std::getenv("CAIRN_DIST_TIMEOUT") != nullptr) r.timeout_seconds = environment_integer("CAIRN_DIST_TIMEOUT", 1, 86400, "seconds");
  return connect_gloo(r);
}

}  // namespace cairn
