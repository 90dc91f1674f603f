// The wheel's libtorch_cpu.so holds ProcessGroupGloo; the class shows itself only with this definition, and Debian's libgloo-dev has its
// headers.
#define USE_C10D_GLOO

#include "cairn/dist/gloo.h"

#include <ATen/ops/empty.h>

#include <chrono>
#include <cstdlib>
#include <exception>
#include <functional>
#include <mutex>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/dist/aside.h"
#include "cairn/dist/gpu.h"
#include "cairn/dist/watch.h"

namespace cairn {
namespace {

using Milliseconds = std::chrono::milliseconds;

// First line of a c10 error: the rest is a native stack trace that helps nobody here.
std::string first_line(const char* what) {
  const std::string text(what);
  return text.substr(0, text.find('\n'));
}

c10::intrusive_ptr<c10d::Store> connect_store(const Rendezvous& r, bool first_connection) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(r.port);
  options.isServer = first_connection && r.rank == 0 && !r.store_is_there;
  if (first_connection) options.numWorkers = static_cast<size_t>(r.size);
  options.timeout = Milliseconds(static_cast<int64_t>(r.timeout_seconds * 1000));
  return c10::make_intrusive<c10d::PrefixStore>("cairn/" + r.attempt, c10::make_intrusive<c10d::TCPStore>(r.address, options));
}

class GlooWorld : public World, public SumsAside {
 public:
  GlooWorld(const Rendezvous& r, at::Device device) : rank_(r.rank), size_(r.size) {
    const Milliseconds timeout(static_cast<int64_t>(r.timeout_seconds * 1000));
    try {
      store_ = connect_store(r, true);
      auto options = c10d::ProcessGroupGloo::Options::create(timeout);
      const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
      if (interface != nullptr && *interface != '\0') {
        options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForInterface(interface));
      } else if (is_local(r.address)) {
        options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
      } else {
        options->devices.push_back(c10d::ProcessGroupGloo::createDefaultDevice());
      }
      group_ = c10::make_intrusive<c10d::ProcessGroupGloo>(store_, static_cast<int>(r.rank), static_cast<int>(r.size), options);
      if (device.is_cuda() && gpu_collectives() != nullptr) {
        watch_ = std::make_unique<PeerWatch>(r, c10::make_intrusive<c10d::PrefixStore>("watch", connect_store(r, false)),
                                             [this] { return trouble(); });
      }
    } catch (const std::exception& error) {
      throw UserError(
          "rank {} of {} could not meet the other processes at {}:{} within {:.0f} s: {}. Check that all {} processes were started with "
          "the "
          "same "
          "MASTER_ADDR, MASTER_PORT and WORLD_SIZE and with ranks 0 to {}, and that the port is free and reachable",
          r.rank, r.size, r.address, r.port, r.timeout_seconds, first_line(error.what()), r.size, r.size - 1);
    }
    if (watch_ == nullptr) return;
    barrier();
    watch_->start();  // from here on nobody waits for the dead
    auto gpu = gpu_collectives()(r, device, *this);
    const std::lock_guard lock(gpu_mutex_);
    gpu_ = std::move(gpu);
  }

  ~GlooWorld() override {
    if (watch_ == nullptr) return;
    bool good = !failed_ && std::uncaught_exceptions() == 0;
    if (good) {
      try {  // nobody takes away what others still read
        gpu_->finish();
        watch_->expect_leaving();
        barrier();
      } catch (const std::exception&) {
        good = false;
      }
    }
    if (!good) watch_->tell_failure();
    watch_.reset();
    if (!good && gpu_ != nullptr) gpu_->abort();
  }

  int64_t rank() const override { return rank_; }
  int64_t size() const override { return size_; }

  void all_reduce_sum(at::Tensor& tensor) override {
    if (on_gpu(tensor)) {
      if (tensor.is_contiguous()) return gpu_->all_reduce_sum(tensor);
      at::Tensor plain = tensor.detach().contiguous();
      gpu_->all_reduce_sum(plain);
      tensor.detach().copy_(plain);
      return;
    }
    on_host(tensor, [&](at::Tensor& host) {
      std::vector<at::Tensor> list{host};
      wait("all-reduce", [&] { return group_->allreduce(list); });
    });
  }

  at::Tensor all_gather(const at::Tensor& tensor) override {
    CAIRN_CHECK(tensor.dim() >= 1, "all_gather needs rows");
    std::vector<int64_t> shape = tensor.sizes().vec();
    shape[0] *= size_;
    if (on_gpu(tensor)) {
      at::Tensor all = at::empty(shape, tensor.detach().options());
      gpu_->all_gather(all, tensor.detach().contiguous());
      return all;
    }
    std::vector<at::Tensor> input{tensor.detach().contiguous().cpu()};
    at::Tensor all = at::empty(shape, input[0].options());
    std::vector<std::vector<at::Tensor>> output{all.chunk(size_, 0)};
    if (tensor.numel() > 0) wait("all-gather", [&] { return group_->allgather(output, input); });
    return all.to(tensor.device());
  }

  void broadcast(at::Tensor& tensor, int64_t root) override {
    if (on_gpu(tensor)) {
      at::Tensor plain = tensor.detach().contiguous();  // the tensor itself, or a copy
      gpu_->broadcast(plain, root);
      if (!plain.is_same(tensor) && plain.data_ptr() != tensor.data_ptr()) tensor.detach().copy_(plain);
      return;
    }
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

  void start_sum(const at::Tensor& tensor) override {
    CAIRN_CHECK(tensor.is_contiguous(), "a sum beside other work needs a contiguous tensor");
    if (tensor.numel() == 0) return;
    if (on_gpu(tensor)) return gpu_->start_sum(tensor.detach());
    if (tensor.is_cpu()) {
      std::vector<at::Tensor> list{tensor.detach()};
      under_way_.push_back({start("all-reduce", [&] { return group_->allreduce(list); }), list});
      return;
    }
    at::Tensor plain = tensor.detach();
    all_reduce_sum(plain);
  }

  void join_sums() override {
    if (gpu_ != nullptr) gpu_->join_sums();
    std::vector<UnderWay> sums;
    sums.swap(under_way_);
    for (const UnderWay& sum : sums) wait("all-reduce", [&] { return sum.work; });
  }

  bool can_be_recorded() const override { return gpu_ != nullptr; }
  void replayed() override {
    if (gpu_ != nullptr) gpu_->replayed();
  }

 private:
  struct UnderWay {
    c10::intrusive_ptr<c10d::Work> work;
    std::vector<at::Tensor> tensors;
  };

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

  using Work = c10::intrusive_ptr<c10d::Work>;

  void wait(const char* name, const std::function<Work()>& begin) {
    start(name, [&] {
      const Work work = begin();
      work->wait();
      return work;
    });
  }

  Work start(const char* name, const std::function<Work()>& begin) {
    try {
      return begin();
    } catch (const std::exception& error) {
      failed_ = true;
      throw UserError(
          "{} of rank {} of {} failed: {}. Another process of this run has probably ended; look at its output, then resume the run", name,
          rank_, size_, first_line(error.what()));
    }
  }

  bool on_gpu(const at::Tensor& tensor) const { return gpu_ != nullptr && tensor.is_cuda() && tensor.numel() > 0; }

  // For the watch's thread.
  std::string trouble() {
    const std::lock_guard lock(gpu_mutex_);
    return gpu_ == nullptr ? "" : gpu_->trouble();
  }

  int64_t rank_, size_;
  bool failed_ = false;
  c10::intrusive_ptr<c10d::Store> store_;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
  std::vector<UnderWay> under_way_;  // sums in main memory
  std::mutex gpu_mutex_;             // while gpu_ comes into being
  std::unique_ptr<GpuCollectives> gpu_;
  std::unique_ptr<PeerWatch> watch_;  // ends before what it asks about
};

}  // namespace

std::shared_ptr<World> connect_gloo(const Rendezvous& rendezvous, at::Device device) {
  return std::make_shared<GlooWorld>(rendezvous, device);
}

}  // namespace cairn
