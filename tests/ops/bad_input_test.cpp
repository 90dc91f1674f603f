// Operands that do not fit end in a message that names operator, argument, what came and what is expected, before any kernel runs. On the
// CPU, where the checks are the same; "meta" stands for another device.
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "cairn/ops/cross_entropy/cross_entropy.h"
#include "cairn/ops/gather/gather.h"
#include "cairn/ops/hsa/direct.h"
#include "cairn/ops/hsa/pages.h"
#include "cairn/ops/norm/norm.h"
#include "cairn/ops/route/route.h"
#include "cairn/ops/select/int8.h"
#include "cairn/ops/swiglu/swiglu.h"
#include "cairn/ops/window/window.h"

namespace cairn {
namespace {

at::Tensor real(at::IntArrayRef sizes) { return at::zeros(sizes, at::kFloat); }
at::Tensor whole(at::IntArrayRef sizes) { return at::zeros(sizes, at::kLong); }
at::Tensor elsewhere(const at::Tensor& x) { return at::empty(x.sizes(), x.options().device(at::kMeta)); }
at::Tensor none() { return {}; }

struct Hsa {
  at::Tensor q = real({2, 6, 4, 8}), k = real({2, 20, 2, 8}), v = real({2, 20, 2, 8}), index = whole({2, 6, 2, 3}),
             weight = real({2, 6, 4, 3});
  int64_t chunk = 4;
};

// One thing wrong at a time.
void refuse(const std::string& message, const std::function<void(Hsa&)>& spoil) {
  Hsa x;
  spoil(x);
  EXPECT_DEATH(hsa(x.q, x.k, x.v, x.index, x.weight, x.chunk), "hsa: argument " + message);
  EXPECT_DEATH(hsa_backward(x.q, {}, x.q, x.k, x.v, x.index, x.weight, x.chunk, false), "hsa: argument " + message);
}

TEST(BadInputDeathTest, MemoryAttention) {
  refuse("q has shape \\[2,6,4\\]; expected 4 dimensions, \\[B,L,H,D\\]", [](Hsa& x) { x.q = x.q.select(3, 0); });
  refuse("q has shape \\[2,6,0,8\\]; expected at least 1 head", [](Hsa& x) { x.q = x.q.narrow(2, 0, 0); });
  refuse("k has shape \\[1,20,2,8\\]; expected .*, here \\[2,20,2,8\\]", [](Hsa& x) { x.k = x.k.narrow(0, 0, 1); });
  refuse("k has shape \\[2,20,3,8\\]; expected .* G a divisor of the 4 heads", [](Hsa& x) { x.k = real({2, 20, 3, 8}); });
  refuse("v has shape \\[2,19,2,8\\]; expected the shape of k, here \\[2,20,2,8\\]", [](Hsa& x) { x.v = x.v.narrow(1, 0, 19); });
  refuse("index has shape \\[2,6,3,3\\]; expected 1 or 2 in dimension 2", [](Hsa& x) { x.index = whole({2, 6, 3, 3}); });
  refuse("index has shape \\[2,5,2,3\\]; .*, here \\[2,6,2,3\\]", [](Hsa& x) { x.index = x.index.narrow(1, 0, 5); });
  refuse("weight has shape \\[2,6,3,3\\]; expected 1, 2 or 4 in dimension 2", [](Hsa& x) { x.weight = real({2, 6, 3, 3}); });
  refuse("weight has shape \\[2,6,4,2\\]; .*N of index, here \\[2,6,4,3\\]", [](Hsa& x) { x.weight = x.weight.narrow(3, 0, 2); });
  refuse("chunk is 0; expected .*at least 1", [](Hsa& x) { x.chunk = 0; });
  refuse("q has dtype Half; expected Float, BFloat16 or Double",
         [](Hsa& x) { x.q = x.q.to(at::kHalf), x.k = x.k.to(at::kHalf), x.v = x.v.to(at::kHalf); });
  refuse("k has dtype BFloat16; expected Float", [](Hsa& x) { x.k = x.k.to(at::kBFloat16); });
  refuse("index has dtype Int; expected Long", [](Hsa& x) { x.index = x.index.to(at::kInt); });
  refuse("weight has dtype Double; expected Float", [](Hsa& x) { x.weight = x.weight.to(at::kDouble); });
  refuse("v is on meta; expected cpu, the device of q", [](Hsa& x) { x.v = elsewhere(x.v); });
  refuse("index is on meta; expected cpu, the device of q", [](Hsa& x) { x.index = elsewhere(x.index); });
  refuse("weight is on meta; expected cpu, the device of q", [](Hsa& x) { x.weight = elsewhere(x.weight); });
}

struct Pages {
  at::Tensor q = real({2, 1, 4, 8}), gain = real({8}), index = whole({2, 1, 2, 3}), score = real({2, 1, 2, 3});
  ChunkPages pages{{real({2, 3, 4, 2, 8}), real({2, 5, 4, 2, 8})}, {real({2, 3, 4, 2, 8}), real({2, 5, 4, 2, 8})}};
};

void refuse_pages(const std::string& message, const std::function<void(Pages&)>& spoil) {
  Pages x;
  spoil(x);
  EXPECT_DEATH(hsa_pages(x.q, x.gain, x.pages, x.index, x.score, {}), "hsa_pages: argument " + message);
}

TEST(BadInputDeathTest, MemoryAttentionOverPages) {
  const auto to_bytes = [](Pages& x) {
    for (at::Tensor* page : {&x.pages.k[0], &x.pages.k[1], &x.pages.v[0], &x.pages.v[1]}) *page = page->to(at::kChar);
    for (const at::Tensor& page : x.pages.k) {
      x.pages.k_scale.push_back(page.select(4, 0).to(at::kBFloat16)), x.pages.v_scale.push_back(page.select(4, 0).to(at::kBFloat16));
    }
  };
  {
    Pages good, bytes;  // these run
    to_bytes(bytes);
    EXPECT_EQ(hsa_pages(good.q, good.gain, good.pages, good.index, good.score, {}).sizes(), good.q.sizes());
    EXPECT_EQ(hsa_pages(bytes.q, bytes.gain, bytes.pages, bytes.index, bytes.score, {}).sizes(), bytes.q.sizes());
  }
  refuse_pages("q has shape \\[2,2,4,8\\]; expected one token a row", [](Pages& x) { x.q = real({2, 2, 4, 8}); });
  refuse_pages("q has shape \\[2,1,3,8\\]; expected a multiple of the 2 K/V heads", [](Pages& x) { x.q = real({2, 1, 3, 8}); });
  refuse_pages("gain has shape \\[7\\]; expected \\[D\\] of q, here \\[8\\]", [](Pages& x) { x.gain = real({7}); });
  refuse_pages("pages has 2 of keys and 1 of values", [](Pages& x) { x.pages.v.pop_back(); });
  refuse_pages("pages has 0 of keys and 0 of values", [](Pages& x) { x.pages = {}; });
  refuse_pages("pages.v has shape \\[2,4,4,2,8\\]; expected the shape of the keys", [](Pages& x) { x.pages.v[1] = real({2, 4, 4, 2, 8}); });
  refuse_pages("pages.k has shape \\[2,5,4,2,9\\]; .*, here \\[2,5,4,2,8\\]", [](Pages& x) {
    x.pages.k[1] = x.pages.v[1] = real({2, 5, 4, 2, 9});
  });
  refuse_pages("pages has scales of 1 and 2 of 2 pages", [&](Pages& x) { to_bytes(x), x.pages.k_scale.pop_back(); });
  refuse_pages("pages.k_scale has shape \\[2,5,4\\]; expected \\[B,c,S,G\\] of the keys",
               [&](Pages& x) { to_bytes(x), x.pages.k_scale[1] = x.pages.k_scale[1].select(3, 0); });
  refuse_pages("index has shape \\[2,1,4,3\\]; expected 1 or 2 in dimension 2", [](Pages& x) { x.index = whole({2, 1, 4, 3}); });
  refuse_pages("index has dtype Int; expected Long", [](Pages& x) { x.index = x.index.to(at::kInt); });
  refuse_pages("score has shape \\[2,1,2,2\\]; expected the shape of index", [](Pages& x) { x.score = x.score.narrow(3, 0, 2); });
  refuse_pages("score is on meta; expected cpu, the device of q", [](Pages& x) { x.score = elsewhere(x.score); });
  refuse_pages("index is on meta; expected cpu, the device of q", [](Pages& x) { x.index = elsewhere(x.index); });
  const Pages x;
  EXPECT_DEATH(gather_chunks(x.pages, x.index.to(at::kInt)), "gather_chunks: argument index has dtype Int; expected Long");
  EXPECT_DEATH(gather_chunks(x.pages, whole({1, 1, 1, 1})), "gather_chunks: argument pages.k has shape .*, here \\[1,3,4,2,8\\]");
}

TEST(BadInputDeathTest, Selection) {
  const at::Tensor rq = real({2, 6, 2, 8}), landmarks = real({2, 5, 2, 8});
  Visibility v;
  EXPECT_DEATH(select_chunks(rq.select(3, 0), landmarks, 3, v), "select_chunks: argument rq has shape \\[2,6,2\\]; expected 4 dimensions");
  EXPECT_DEATH(select_chunks(rq, landmarks.narrow(0, 0, 1), 3, v),
               "select_chunks: argument landmarks has shape \\[1,5,2,8\\]; .*, here \\[2,5,2,8\\]");
  EXPECT_DEATH(select_chunks(rq, {landmarks, landmarks.narrow(3, 0, 7)}, 3, v), "argument landmarks has shape \\[2,5,2,7\\]");
  EXPECT_DEATH(select_chunks(rq, elsewhere(landmarks), 3, v), "argument landmarks is on meta; expected cpu, the device of rq");
  EXPECT_DEATH(select_chunks(rq, landmarks, -1, v), "select_chunks: argument top_k is -1; expected 0 or more");
  EXPECT_DEATH(select_from_scores(rq.select(3, 0), 3, v), "select_from_scores: argument score has shape \\[2,6,2\\]");
  EXPECT_DEATH(landmark_scores(rq, landmarks.narrow(2, 0, 1)), "landmark_scores: argument landmarks has shape \\[2,5,1,8\\]");
  for (Visibility wrong : {Visibility{0, 0, 0, 0}, Visibility{4, -2, 0, 0}, Visibility{4, 0, -1, 0}, Visibility{4, 0, 0, -1}})
    EXPECT_DEATH(select_chunks(rq, landmarks, 3, wrong), "argument visibility is .*; expected at least 1, -1, 0, 0");

  const Int8Landmarks good{{landmarks.to(at::kChar)}, {landmarks.select(3, 0).to(at::kBFloat16)}};
  const auto refuse_bytes = [&](const std::string& message, const Int8Landmarks& wrong) {
    EXPECT_DEATH(select_chunks(rq, wrong, 3, v), "select_chunks \\(8-bit\\): argument landmarks" + message);
  };
  EXPECT_EQ(select_chunks(rq, good, 3, v).index.size(3), 3);
  refuse_bytes(" has 0 pages of numbers and 0 of scales", {});
  refuse_bytes(" has 1 pages of numbers and 0 of scales", {good.numbers, {}});
  refuse_bytes(".scale has shape \\[2,5,1\\]; expected .*, here \\[2,5,2\\]", {good.numbers, {good.scale[0].narrow(2, 0, 1)}});
  refuse_bytes(".numbers has shape \\[2,5,2,7\\]; .*, here \\[2,5,2,8\\]", {{good.numbers[0].narrow(3, 0, 7)}, good.scale});
  refuse_bytes(".numbers has dtype Float; expected Char", {{landmarks}, good.scale});
  refuse_bytes(".scale has dtype Float; expected BFloat16", {good.numbers, {landmarks.select(3, 0)}});
  refuse_bytes(".scale is on meta; expected cpu, the device of rq", {good.numbers, {elsewhere(good.scale[0])}});
}

TEST(BadInputDeathTest, WhatIsDoneElementByElement) {
  const at::Tensor x = real({5, 16});
  EXPECT_DEATH(swiglu(x, real({5, 8})), "swiglu: argument up has shape \\[5,8\\]; expected the shape of gate, here \\[5,16\\]");
  EXPECT_DEATH(swiglu(x, x.to(at::kBFloat16)), "swiglu: argument up has dtype BFloat16; expected Float");
  EXPECT_DEATH(swiglu(x, elsewhere(x)), "swiglu: argument up is on meta; expected cpu, the device of gate");
  EXPECT_DEATH(swiglu_joint(real({5, 7})), "swiglu: halves of 7 numbers");
  EXPECT_DEATH(rms_norm(x, real({15})), "rms_norm: weight of 15, last dimension 16");
  const at::Tensor table = real({9, 16}), target = whole({5});
  const std::string op = "linear_cross_entropy: argument ";
  EXPECT_DEATH(linear_cross_entropy(x, real({9, 15}), target), op + "embedding has shape \\[9,15\\]; .*, here \\[9,16\\]");
  EXPECT_DEATH(linear_cross_entropy(x, table, whole({4})), op + "target has shape \\[4\\]; expected the rows of hidden, here \\[5\\]");
  EXPECT_DEATH(linear_cross_entropy(x, table, target.to(at::kInt)), op + "target has dtype Int; expected Long");
  EXPECT_DEATH(linear_cross_entropy(x, table, elsewhere(target)), op + "target is on meta; expected cpu, the device of hidden");
  EXPECT_DEATH(linear_cross_entropy(x, table, at::full({5}, 9, at::kLong)), "target 9 of a vocabulary of 9");
  const at::Tensor q = real({1, 3, 4, 8}), k = real({1, 3, 2, 8});
  EXPECT_DEATH(window_attention(q, k, real({1, 4, 2, 8}), 2), "window_attention: argument v has shape \\[1,4,2,8\\]");
  EXPECT_DEATH(window_attention(q, real({1, 2, 2, 8}), real({1, 2, 2, 8}), 2), "window_attention: argument k has shape \\[1,2,2,8\\]");
  EXPECT_DEATH(window_attention(q, k, k.to(at::kBFloat16), 2), "window_attention: argument v has dtype BFloat16; expected Float");
  EXPECT_DEATH(window_attention(q, k, elsewhere(k), 2), "window_attention: argument v is on meta; expected cpu, the device of q");
  EXPECT_DEATH(window_attention(q, k, k, 0), "window_attention: window 0");
  RouteLayout layout;
  layout.length = 5, layout.chunks = 4, layout.chunk = 2;
  EXPECT_DEATH(route_log_sum(x, 1, layout, none(), none(), elsewhere(at::zeros({5}, at::kBool))),
               "route_log_sum: argument used is on meta; expected cpu, the device of product");
}

}  // namespace
}  // namespace cairn
