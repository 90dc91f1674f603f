// The wheel's libtorch_cpu.so holds ProcessGroupGloo; the class shows itself only with this definition, and Debian's libgloo-dev has its
// headers.
#define USE_C10D_GLOO

#include "cairn/dist/gloo.h"

#include <ATen/ops/empty.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <vector>

#include "cairn/core/error.h"

namespace cairn {
namespace {

using Milliseconds = std::chrono::milliseconds;

bool is_local(const std::string& address) { return address == "localhost" || address == "127.0.0.1" || address == "::1"; }

// First line of a c10 error: the rest is a native stack trace that helps nobody here.
std::string first_line(const char* what) {
  const std::string text(what);
  return text.substr(0, text.find('\n'));
}

class GlooWorld : public World {
 public:
  explicit GlooWorld(const Rendezvous& r) : rank_(r.rank), size_(r.size), where_(fmt::format("{}:{}", r.address, r.port)) {
    const Milliseconds timeout(static_cast<int64_t>(r.timeout_seconds * 1000));
    try {
      c10d::TCPStoreOptions store_options;
      store_options.port = static_cast<uint16_t>(r.port);
      store_options.isServer = r.rank == 0;
      store_options.numWorkers = static_cast<size_t>(r.size);
      store_options.timeout = timeout;
      store_ = c10::make_intrusive<c10d::TCPStore>(r.address, store_options);
      auto options = c10d::ProcessGroupGloo::Options::create(timeout);
      const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
      if (interface != nullptr && *interface != '\0') {
        options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForInterface(interface));
      } else if (is_local(r.address)) {
        options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
      } else {
        options->devices.push_back(c10d::ProcessGroupGloo::createDefaultDevice());
      }
      auto prefixed = c10::make_intrusive<c10d::PrefixStore>("cairn", store_);
      group_ = c10::make_intrusive<c10d::ProcessGroupGloo>(prefixed, static_cast<int>(r.rank), static_cast<int>(r.size), options);
    } catch (const std::exception& error) {
      throw UserError(
          "rank {} of {} could not meet the other processes at {} within {:.0f} s: {}. Check that all {} processes were started with the "
          "same "
          "MASTER_ADDR, MASTER_PORT and WORLD_SIZE and with ranks 0 to {}, and that the port is free and reachable",
          r.rank, r.size, where_, r.timeout_seconds, first_line(error.what()), r.size, r.size - 1);
    }
  }

  int64_t rank() const override { return rank_; }
  int64_t size() const override { return size_; }

  void all_reduce_sum(at::Tensor& tensor) override {
    on_host(tensor, [&](at::Tensor& host) {
      std::vector<at::Tensor> list{host};
      wait("all-reduce", [&] { return group_->allreduce(list); });
    });
  }

  at::Tensor all_gather(const at::Tensor& tensor) override {
    CAIRN_CHECK(tensor.dim() >= 1, "all_gather needs rows");
    std::vector<at::Tensor> input{tensor.detach().contiguous().cpu()};
    std::vector<int64_t> shape = tensor.sizes().vec();
    shape[0] *= size_;
    at::Tensor all = at::empty(shape, input[0].options());
    std::vector<std::vector<at::Tensor>> output{all.chunk(size_, 0)};
    if (tensor.numel() > 0) wait("all-gather", [&] { return group_->allgather(output, input); });
    return all.to(tensor.device());
  }

  void broadcast(at::Tensor& tensor, int64_t root) override {
    on_host(tensor, [&](at::Tensor& host) {
      std::vector<at::Tensor> list{host};
      c10d::BroadcastOptions options;
      options.rootRank = root;
      wait("broadcast", [&] { return group_->broadcast(list, options); });
    });
  }

  void barrier() override {
    wait("barrier", [&] { return group_->barrier(); });
  }

 private:
  // Runs `collective` on a contiguous host copy of the tensor (or on the tensor itself where it is one).
  void on_host(at::Tensor& tensor, const std::function<void(at::Tensor&)>& collective) {
    if (tensor.numel() == 0) return;
    if (tensor.device().is_cpu() && tensor.is_contiguous()) {
      at::Tensor plain = tensor.detach();
      collective(plain);
      return;
    }
    at::Tensor host = tensor.detach().cpu().contiguous();
    collective(host);
    tensor.detach().copy_(host);
  }

  void wait(const char* name, const std::function<c10::intrusive_ptr<c10d::Work>()>& start) {
    try {
      start()->wait();
    } catch (const std::exception& error) {
      throw UserError(
          "{} of rank {} of {} failed: {}. Another process of this run has probably ended; look at its output, then resume the run", name,
          rank_, size_, first_line(error.what()));
    }
  }

  int64_t rank_, size_;
  std::string where_;
  c10::intrusive_ptr<c10d::TCPStore> store_;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
};

}  // namespace

std::shared_ptr<World> connect_gloo(const Rendezvous& rendezvous) { return std::make_shared<GlooWorld>(rendezvous); }

}  // namespace cairn
