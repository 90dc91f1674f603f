// Memory attention without autograd (direct.h), and the backward of the reference, against autograd through the reference in fp64.
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/where.h>

#include <tuple>

#include "cairn/ops/hsa/direct.h"
#include "ops/compare.h"

namespace cairn {
namespace {

using testing::test_device;

struct Operands {
  at::Tensor q, k, v, index, weight, grad_o, grad_lse;
};

// Two texts, S - 1 tokens behind the last whole chunk, some slots unused.
Operands make(int64_t L, int64_t C, int64_t N, int64_t S, int64_t Gi, int64_t Hw) {
  constexpr int64_t B = 2, H = 4, G = 2, D = 12;
  const auto options = at::TensorOptions(at::kDouble).device(test_device());
  const auto floats = [&](const at::Tensor& x) { return x.to(at::kFloat).to(at::kDouble); };  // exact in fp32
  Operands x;
  x.q = floats(at::randn({B, L, H, D}, options));
  x.k = floats(at::randn({B, C * S + S - 1, G, D}, options)), x.v = floats(at::randn({B, C * S + S - 1, G, D}, options));
  const at::Tensor order = std::get<1>(at::rand({B, L, Gi, C}, options).topk(N, -1));
  x.index = at::where(at::rand({B, L, Gi, N}, options).gt(0.2), order, at::full({}, -1, order.options()));
  x.weight = floats(at::rand({B, L, Hw, N}, options));
  x.grad_o = floats(at::randn({B, L, H, D}, options)), x.grad_lse = floats(at::randn({B, L, H, N}, options));
  return x;
}

// o, lse, dq, dk, dv, dweight of the reference through autograd.
std::vector<at::Tensor> reference(const Operands& x, int64_t chunk, bool off_by_one, bool want_lse) {
  const auto leaf = [](const at::Tensor& t) { return t.detach().clone().requires_grad_(true); };
  const at::Tensor q = leaf(x.q), k = leaf(x.k), v = leaf(x.v), w = leaf(x.weight);
  const HsaOutput out = hsa_reference(q, k, v, x.index, w, chunk, off_by_one, true);
  std::vector<at::Tensor> outputs = {out.o}, cotangents = {x.grad_o};
  if (want_lse) outputs.push_back(out.lse), cotangents.push_back(x.grad_lse);
  const auto grads = torch::autograd::grad(outputs, {q, k, v, w}, cotangents);
  return {out.o.detach(), out.lse.detach(), grads[0], grads[1], grads[2], grads[3]};
}

void expect_near(const std::vector<at::Tensor>& got, const std::vector<at::Tensor>& want, double tolerance, const std::string& what) {
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_EQ(got[i].sizes(), want[i].sizes()) << what << ": tensor " << i;
    EXPECT_LE(testing::worst(got[i], want[i]), tolerance * (1 + testing::largest(want[i]))) << what << ": tensor " << i;
  }
}

TEST(HsaDirect, AgreesWithAutogradThroughTheReference) {
  CAIRN_NEED_TEST_DEVICE();
  const struct {
    int64_t L, C, N, S, Gi, Hw;
    bool off_by_one, want_lse;
  } cases[] = {{40, 6, 3, 5, 1, 1, false, false},
               {33, 5, 4, 8, 2, 4, true, true},
               {1, 3, 3, 4, 2, 2, false, true},
               {60, 200, 2, 3, 1, 4, false, true}};
  for (const auto& c : cases) {
    const Operands x = make(c.L, c.C, c.N, c.S, c.Gi, c.Hw);
    const auto want = reference(x, c.S, c.off_by_one, c.want_lse);
    const at::Tensor none, &grad_lse = c.want_lse ? x.grad_lse : none;
    const HsaGradients plain = hsa_reference_backward(x.grad_o, grad_lse, x.q, x.k, x.v, x.index, x.weight, c.S, c.off_by_one);
    expect_near({plain.q, plain.k, plain.v, plain.weight}, {want[2], want[3], want[4], want[5]}, 1e-12, "reference");
    for (const auto type : {at::kDouble, at::kFloat}) {
      const auto as = [&](const at::Tensor& t) { return t.defined() ? t.to(type) : t; };
      const HsaOutput out = hsa_forward(as(x.q), as(x.k), as(x.v), x.index, as(x.weight), c.S, c.off_by_one, true);
      const HsaGradients d = hsa_backward(as(x.grad_o), as(grad_lse), as(x.q), as(x.k), as(x.v), x.index, as(x.weight), c.S, c.off_by_one);
      EXPECT_EQ(d.weight.scalar_type(), type);
      expect_near({out.o, out.lse, d.q, d.k, d.v, d.weight}, want, type == at::kDouble ? 1e-12 : 1e-5, c10::toString(type));
    }
  }
}

TEST(HsaDirect, RecordsNothing) {
  const Operands x = make(20, 4, 2, 4, 1, 1);
  const HsaOutput out = hsa_forward(x.q.clone().requires_grad_(true), x.k, x.v, x.index, x.weight, 4, false, false);
  EXPECT_FALSE(out.o.requires_grad());
}

// On a GPU an index out of range would otherwise end all work there.
TEST(HsaDirect, ChunksThatAreNotThereAreUnusedSlotsOnAGpu) {
  if (!test_device().is_cuda()) GTEST_SKIP() << "CAIRN_TEST_DEVICE is no GPU";
  CAIRN_NEED_TEST_DEVICE();
  for (const auto type : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const Operands x = make(30, 5, 3, 8, 1, 1);
    const auto as = [&](const at::Tensor& t) { return t.to(type); };
    const at::Tensor wrong = at::where(x.index.eq(2), at::full({}, int64_t{1} << 40, x.index.options()), x.index),
                     unused = at::where(x.index.eq(2), at::full({}, -1, x.index.options()), x.index);
    const auto run = [&](const at::Tensor& index) { return hsa_forward(as(x.q), as(x.k), as(x.v), index, as(x.weight), 8, false, true).o; };
    EXPECT_TRUE(at::equal(run(wrong), run(unused)));
  }
}

}  // namespace
}  // namespace cairn
