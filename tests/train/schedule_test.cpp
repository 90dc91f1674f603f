#include "cairn/train/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "cairn/core/error.h"
#include "train/tiny.h"

namespace cairn {
namespace {

using ::testing::HasSubstr;

std::string error_of(const TrainConfig& config) {
  try {
    config.validate();
  } catch (const UserError& error) {
    return error.what();
  }
  return {};
}

TEST(TrainConfig, DefaultsAndTinyAreValid) {
  EXPECT_EQ(error_of(TrainConfig()), "");
  EXPECT_EQ(error_of(testing::tiny_config()), "");
}

TEST(TrainConfig, MistakesAreNamed) {
  const auto with = [](auto change) {
    TrainConfig c = testing::tiny_config();
    change(c.train);
    return error_of(c);
  };
  EXPECT_THAT(with([](auto& t) { t.phases = {}; }), HasSubstr("train.phases is empty"));
  EXPECT_THAT(with([](auto& t) { t.phases = {"64:4"}; }), HasSubstr("cannot read \"64:4\""));
  EXPECT_THAT(with([](auto& t) { t.phases = {"64:some:1"}; }), HasSubstr("neither \"all\""));
  EXPECT_THAT(with([](auto& t) { t.phases = {"64:0:1"}; }), HasSubstr("neither \"all\""));
  EXPECT_THAT(with([](auto& t) { t.phases = {"64:4:1x"}; }), HasSubstr("cannot read"));
  EXPECT_THAT(with([](auto& t) { t.phases = {"64:4:0.5"}; }), HasSubstr("ends at 0.5"));
  EXPECT_THAT(with([](auto& t) { t.phases = {"64:4:0.5", "64:4:0.5", "64:4:1"}; }), HasSubstr("must rise"));
  EXPECT_THAT(with([](auto& t) { t.phases = {"1024:4:1"}; }), HasSubstr("holds no sequence"));
  EXPECT_THAT(with([](auto& t) { t.phases = {"96:4:1"}; }), HasSubstr("no multiple"));
  EXPECT_THAT(with([](auto& t) { t.beta_ramp = {0.5}; }), HasSubstr("train.beta_ramp is [begin, end]"));
  EXPECT_THAT(with([](auto& t) { t.alpha_ramp = {0.5, 0.2}; }), HasSubstr("train.alpha_ramp is [begin, end]"));
  EXPECT_THAT(with([](auto& t) { t.gates = {0.5, 0.2}; }), HasSubstr("must rise"));
  EXPECT_THAT(with([](auto& t) { t.gate_tasks = {"word_pair"}; }), HasSubstr("Did you mean \"word_pairs\""));
  EXPECT_THAT(with([](auto& t) { t.distillation_weight = 0.1; }), HasSubstr("no effect with alpha 0"));
  TrainConfig text_only = testing::tiny_config();
  text_only.tasks.mix = {"text:1"};
  text_only.train.gates = {0.5};
  EXPECT_THAT(error_of(text_only), HasSubstr("no task of tasks.mix measures skill"));
}

TEST(Schedule, RampsPhasesAndRateFollowTheClock) {
  TrainConfig c = testing::tiny_config();
  c.train.tokens = 1000;
  c.train.batch_tokens = 10;
  c.train.phases = {"5:all:0.4", "10:4:1"};
  c.train.alpha_ramp = {0.2, 0.4};
  c.train.beta_ramp = {0.25, 0.75};
  c.train.distillation_weight = 0.5;
  c.train.route_from = 0.3;
  c.train.warmup_steps = 10;
  c.train.decay = 0.2;
  c.train.min_lr = 0.1;
  c.train.lr = 1;
  Schedule s(c);
  for (int64_t step = 0; step < 100; ++step) {
    ASSERT_FALSE(s.finished());
    const double clock = static_cast<double>(step) / 100;
    ASSERT_NEAR(s.clock(), clock, 1e-12);
    const Moment m = s.at(step);
    const double x = s.clock();
    EXPECT_EQ(m.length, x < 0.4 ? 5 : 10);
    EXPECT_EQ(m.top_k, x < 0.4 ? Phase::kAllChunks : 4);
    EXPECT_NEAR(m.alpha, std::clamp((0.4 - x) / 0.2, 0.0, 1.0), 1e-9);
    EXPECT_NEAR(m.beta, std::clamp((0.75 - x) / 0.5, 0.0, 1.0), 1e-9);
    EXPECT_NEAR(m.distillation_weight, 0.5 * m.alpha, 1e-12);
    EXPECT_EQ(m.route_weight, x < 0.3 ? 0 : 0.3);
    const double decay = x <= 0.8 ? 1 : 1 - 0.9 * (x - 0.8) / 0.2;
    EXPECT_NEAR(m.lr, std::min(1.0, (step + 1) / 10.0) * decay, 1e-9);
    s.advance(10, 0);
  }
  EXPECT_TRUE(s.finished());
}

TEST(Schedule, CosineEndsAtItsFloor) {
  TrainConfig c = testing::tiny_config();
  c.train.schedule = "cosine";
  c.train.tokens = 1000;
  c.train.warmup_steps = 0;
  c.train.lr = 2;
  Schedule s(c);
  EXPECT_DOUBLE_EQ(s.at(0).lr, 2);
  s.advance(500, 0);
  EXPECT_NEAR(s.at(1).lr, 2 * 0.55, 1e-12);
  s.advance(500, 0);
  EXPECT_NEAR(s.at(2).lr, 2 * 0.1, 1e-12);
}

TEST(Schedule, WatchEndsARunThatIsTooSlow) {
  TrainConfig c = testing::tiny_config();
  c.train.tokens = 1'000'000;
  c.train.max_minutes = 1;
  Schedule s(c);
  s.advance(10, 30);
  EXPECT_NEAR(s.clock(), 0.5, 1e-12);
  s.advance(10, 30);
  EXPECT_TRUE(s.finished());
}

SkillPoint point(double accuracy, double recall) {
  SkillPoint p;
  p.accuracy["word_pairs"] = accuracy;
  p.recall = recall;
  return p;
}

TrainConfig gated() {
  TrainConfig c = testing::tiny_config();
  c.train.tokens = 1000;
  c.train.gates = {0.25};
  c.train.gate_points = 3;
  c.train.gate_tokens = 500;
  return c;
}

TEST(Schedule, GateHoldsTheClockUntilSkillIsSeen) {
  Schedule s(gated());
  for (int i = 0; i < 4; ++i) s.advance(70, 0);  // 280 of 1000: beyond the gate
  EXPECT_TRUE(s.waiting());
  EXPECT_DOUBLE_EQ(s.clock(), 0.25);  // stops at the gate itself: the ramp that starts there has not begun
  EXPECT_DOUBLE_EQ(s.at(5).beta, 1);
  EXPECT_EQ(s.measure(point(0.95, 0.99)), "");  // one good point is no skill
  EXPECT_EQ(s.measure(point(0.70, 0.99)), "");
  EXPECT_EQ(s.measure(point(0.95, 0.99)), "");  // mean .867
  s.advance(70, 0);
  EXPECT_DOUBLE_EQ(s.clock(), 0.25);
  EXPECT_EQ(s.waited(), 70);
  EXPECT_EQ(s.measure(point(0.95, std::numeric_limits<double>::quiet_NaN())),
            "");  // nothing was asked: the old recalls count on; mean .867
  EXPECT_THAT(s.measure(point(0.95, 0.99)), HasSubstr("gate at 0.25 opens"));
  EXPECT_FALSE(s.waiting());
  s.advance(100, 0);
  EXPECT_DOUBLE_EQ(s.clock(), 0.35);
  EXPECT_LT(s.at(6).beta, 1);
}

TEST(Schedule, SkillBeforeTheGateOpensItAtOnce) {
  Schedule s(gated());
  for (int i = 0; i < 3; ++i) s.measure(point(0.99, 0.99));
  s.advance(300, 0);
  EXPECT_TRUE(s.waiting());
  EXPECT_NE(s.measure(point(0.99, 0.99)), "");
}

TEST(Schedule, VainWaitIsDiagnosed) {
  const auto waited = [](double accuracy, double recall) {
    Schedule s(gated());
    s.advance(300, 0);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(s.measure(point(accuracy, recall)), "");
    s.advance(500, 0);
    EXPECT_FALSE(s.wait_exceeded());
    s.advance(1, 0);
    EXPECT_TRUE(s.wait_exceeded());
    return s.diagnosis();
  };
  EXPECT_THAT(waited(0.3, 0.2), HasSubstr("neither answers nor landmarks have formed"));
  EXPECT_THAT(waited(0.3, 0.2), HasSubstr("word_pairs 0.30"));
  EXPECT_THAT(waited(0.3, 0.99), HasSubstr("the source chunks are found"));
  EXPECT_THAT(waited(0.99, 0.2), HasSubstr("without the landmarks"));
}

TEST(Schedule, StateIsExact) {
  TrainConfig c = gated();
  Schedule a(c);
  for (int i = 0; i < 7; ++i) {
    a.advance(37, 0);
    a.measure(point(0.1 + 0.1 * i / 3.0, 1.0 / (i + 3)));
  }
  Schedule b(c);
  b.restore(a.to_json(), "state");
  for (int i = 0; i < 40; ++i) {
    EXPECT_EQ(a.to_json(), b.to_json());
    EXPECT_EQ(a.clock(), b.clock());
    a.advance(31, 0);
    b.advance(31, 0);
    a.measure(point(0.5 + i / 60.0, 0.9 + i / 500.0));
    b.measure(point(0.5 + i / 60.0, 0.9 + i / 500.0));
  }
  for (const char* bad : {"", "[]", "{\"clock\":0.5}", "{\"clock\":7,\"gates_passed\":0,\"waited_tokens\":0,\"accuracy\":{},\"recall\":[]}",
                          "{\"clock\":0.5,\"gates_passed\":9,\"waited_tokens\":0,\"accuracy\":{},\"recall\":[]}"}) {
    EXPECT_THROW(b.restore(bad, "state"), UserError) << bad;
  }
}

}  // namespace
}  // namespace cairn
