// tasks_test.cpp: prompts of the tasks as lm-evaluation-harness makes them, tokens of context and
// continuation, standard errors, bins of positions, prompts with a needle.
#include "trainer/eval/tasks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "data/tokenizer/vocab_tokenizer.h"
#include "kernels/base/error.h"
#include "tests/support/program.h"
#include "trainer/eval/needle.h"
#include "trainer/eval/positions.h"

namespace rookery::eval {
namespace {

using Json = nlohmann::json;
using Strings = std::vector<std::string>;
using Ids = std::vector<int32_t>;

Question question(const std::string& task, const Json& record) {
  const test::TempDir dir;
  return read_questions(find_task(task), test::put(dir, "q.jsonl", record.dump()), 0).at(0);
}

TEST(Tasks, PromptsOfTheHarness) {
  const Json hellaswag = {{"activity_label", "Roof shingle removal"},
                          {"ctx_a", "A man is on a roof. [header] How to do it [title] Step one."},
                          {"ctx_b", "he STARTS"},
                          {"endings", {" is [step] using wrap  ", "pulls.", "c", "d"}},
                          {"label", "1"}};
  Question q = question("hellaswag", hellaswag);
  EXPECT_EQ(q.contexts,
            Strings{"Roof shingle removal: A man is on a roof. How to do it. Step one. He starts"});
  EXPECT_EQ(q.choices, (Strings{"is using wrap", "pulls.", "c", "d"}));
  EXPECT_EQ(q.continuations[1], " pulls.");
  EXPECT_EQ(q.gold, 1u);

  q = question("piqa", {{"goal", "Boil eggs"}, {"sol1", "In water."}, {"sol2", "In sand."}, {"label", 0}});
  EXPECT_EQ(q.contexts, Strings{"Question: Boil eggs\nAnswer:"});
  EXPECT_EQ(q.continuations, (Strings{" In water.", " In sand."}));
  EXPECT_EQ(q.gold, 0u);

  const Json arc = {{"question", "Which?"},
                    {"choices", {{"text", {"a rock", "a tree", "sun"}}, {"label", {"1", "2", "3"}}}},
                    {"answerKey", "3"}};
  for (const char* name : {"arc_easy", "arc_challenge"}) {
    q = question(name, arc);
    EXPECT_EQ(q.contexts, Strings{"Question: Which?\nAnswer:"});
    EXPECT_EQ(q.continuations, (Strings{" a rock", " a tree", " sun"}));
    EXPECT_EQ(q.gold, 2u);
  }
  q = question("openbookqa", {{"question_stem", "The sun is"},
                              {"choices", {{"text", {"hot", "cold"}}, {"label", {"A", "B"}}}},
                              {"answerKey", " A"}});
  EXPECT_EQ(q.contexts, Strings{"The sun is"});
  EXPECT_EQ(q.gold, 0u);

  q = question(
      "winogrande",
      {{"sentence", "Sam hit Tom, so _ cried. "}, {"option1", "Sam"}, {"option2", "Tom"}, {"answer", "2"}});
  EXPECT_EQ(q.contexts, (Strings{"Sam hit Tom, so Sam", "Sam hit Tom, so Tom"}));
  EXPECT_EQ(q.continuations, Strings{" cried."});
  EXPECT_EQ(q.gold, 1u);

  q = question("sciq", {{"support", "\n Cells live."},
                        {"question", "What lives?"},
                        {"distractor1", "x"},
                        {"distractor2", "y"},
                        {"distractor3", "z"},
                        {"correct_answer", "cells"}});
  EXPECT_EQ(q.contexts, Strings{"Cells live.\nQuestion: What lives?\nAnswer:"});
  EXPECT_EQ(q.continuations, (Strings{" x", " y", " z", " cells"}));
  EXPECT_EQ(q.gold, 3u);

  const Json copa = {{"premise", "The man turned on the faucet. "},
                     {"question", "effect"},
                     {"choice1", "The toilet filled."},
                     {"choice2", "Water flowed."},
                     {"label", 1}};
  q = question("copa", copa);
  EXPECT_EQ(q.contexts, Strings{"The man turned on the faucet therefore"});
  EXPECT_EQ(q.continuations, (Strings{" The toilet filled.", " Water flowed."}));
  Json cause = copa;
  cause["question"] = "cause";
  EXPECT_EQ(question("copa", cause).contexts, Strings{"The man turned on the faucet because"});

  q = question("lambada_openai_mt_de", {{"text", "Das ist \u00fcbel"}});
  EXPECT_EQ(q.contexts, Strings{"Das ist"});
  EXPECT_EQ(q.continuations, Strings{" \u00fcbel"});
}

TEST(Tasks, LinesThatAreNoRecordsAreNamed) {
  const test::TempDir dir;
  const std::string good = Json{{"goal", "g"}, {"sol1", "a"}, {"sol2", "b"}, {"label", 0}}.dump() + "\n";
  const std::pair<const char*, const char*> cases[] = {
      {"{", "is no JSON object"},
      {"[]", "is no JSON object"},
      {R"({"goal": "g", "sol1": "a", "label": 0})", "has no field \"sol2\""},
      {R"({"goal": 3, "sol1": "a", "sol2": "b", "label": 0})", "field \"goal\" is no string"},
      {R"({"goal": "g", "sol1": "a", "sol2": "b", "label": 2})", "field \"label\" is no number from 0 to 1"},
      {R"({"goal": "g", "sol1": "a", "sol2": "b", "label": "-1"})", "field \"label\" is no number"},
  };
  for (const auto& [line, says] : cases) {
    const auto path = test::put(dir, "q.jsonl", good + "\n" + line + "\n");
    EXPECT_EQ(read_questions(find_task("piqa"), path, 1).size(), 1u);
    try {
      read_questions(find_task("piqa"), path, 0);
      FAIL() << line;
    } catch (const Error& e) {
      EXPECT_EQ(e.id(), "EVAL-02");
      EXPECT_NE(std::string(e.what()).find(str("q.jsonl:3: ", says)), std::string::npos) << e.what();
    }
  }
  const auto refused = [&](const char* task, const Json& record) {
    try {
      question(task, record);
      return std::string("taken");
    } catch (const Error& e) {
      return e.id();
    }
  };
  EXPECT_EQ(
      refused("winogrande", {{"sentence", "none"}, {"option1", "a"}, {"option2", "b"}, {"answer", "1"}}),
      "EVAL-02");
  EXPECT_EQ(refused("arc_easy", {{"question", "q"},
                                 {"choices", {{"text", {"a", "b"}}, {"label", {"A", "B"}}}},
                                 {"answerKey", "C"}}),
            "EVAL-02");
  EXPECT_EQ(
      refused(
          "hellaswag",
          {{"activity_label", "a"}, {"ctx_a", "a"}, {"ctx_b", "b"}, {"endings", {"one", 2}}, {"label", "0"}}),
      "EVAL-02");
  EXPECT_THROW(find_task("mmlu"), Error);
}

// All bytes (id = byte + 1) and a few tokens more, from 257 on.
data::VocabTokenizer vocabulary(const Strings& more) {
  std::vector<data::VocabEntry> entries;
  for (int byte = 0; byte < 256; ++byte)
    entries.push_back({byte + 1, std::string(1, static_cast<char>(byte))});
  for (const std::string& token : more) entries.push_back({static_cast<int32_t>(entries.size()) + 1, token});
  return {data::format_vocabulary(entries), "v.txt"};
}

Ids bytes(const std::string& text) {
  Ids ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c) + 1);
  return ids;
}

TEST(Tasks, ContextAndContinuationAsTokens) {
  const auto tokenizer = vocabulary({" b", "a b"});
  // Encoded as one: what comes after as many tokens as the context alone has.
  Pair p = encode_pair(tokenizer, Protocol::kHarness, "xx", " bc");
  EXPECT_EQ(p.context, bytes("xx"));
  EXPECT_EQ(p.continuation, (Ids{257, 'c' + 1}));
  // Trailing spaces of the context go over to the continuation.
  p = encode_pair(tokenizer, Protocol::kHarness, "xx \n\u00a0", "bc");
  EXPECT_EQ(p.context, bytes("xx"));
  EXPECT_EQ(p.continuation, bytes(" \n\u00a0bc"));
  // A token over the seam: counted by the tokens of the context alone, as the harness does.
  p = encode_pair(tokenizer, Protocol::kHarness, "xa", " bc");
  EXPECT_EQ(p.context, bytes("xa"));
  EXPECT_EQ(p.continuation, bytes("c"));
  // No context: the end of text is one.
  p = encode_pair(tokenizer, Protocol::kHarness, " ", "b");
  EXPECT_EQ(p.context, Ids{0});
  EXPECT_EQ(p.continuation, Ids{257});

  p = encode_pair(tokenizer, Protocol::kRwkv, "xa", " bc");
  EXPECT_EQ(p.context, (Ids{0, 'x' + 1, 'a' + 1}));
  EXPECT_EQ(p.continuation, (Ids{257, 'c' + 1}));
}

TEST(Tasks, StandardErrors) {
  EXPECT_DOUBLE_EQ(accuracy_stderr(0.25, 101), std::sqrt(0.25 * 0.75 / 100));
  EXPECT_EQ(accuracy_stderr(1, 1), 0);
  // For many documents and a small spread the bootstrap is the propagated error of the mean.
  std::vector<double> nats;
  double sum = 0, squares = 0;
  for (int i = 0; i < 300; ++i) {
    nats.push_back(2 + 0.5 * std::sin(i));
    sum += nats.back(), squares += nats.back() * nats.back();
  }
  const double mean = sum / 300, deviation = std::sqrt(squares / 300 - mean * mean);
  const double expected = std::exp(mean) * deviation / std::sqrt(300.0);
  EXPECT_NEAR(perplexity_stderr(nats), expected, 0.03 * expected);
  EXPECT_EQ(perplexity_stderr(nats), perplexity_stderr(nats));
  EXPECT_EQ(perplexity_stderr(std::vector<double>(5, 1.5)), 0);
}

TEST(Positions, BinsCoverEachPositionOnce) {
  const auto bounds = [](int64_t length, int64_t width) {
    std::vector<std::pair<int64_t, int64_t>> all;
    for (const PositionBin& bin : position_bins(length, width)) all.emplace_back(bin.from, bin.to);
    return all;
  };
  using B = std::vector<std::pair<int64_t, int64_t>>;
  EXPECT_EQ(bounds(10, 0), (B{{1, 1}, {2, 2}, {3, 4}, {5, 8}, {9, 10}}));
  EXPECT_EQ(bounds(10, 4), (B{{1, 4}, {5, 8}, {9, 10}}));
  auto bins = position_bins(3, 2);
  add_to_bins(bins, std::vector<double>{1, 2, 4, 100});
  add_to_bins(bins, std::vector<double>{8});
  EXPECT_EQ(bins[0].nats, 11);
  EXPECT_EQ(bins[0].tokens, 3);
  EXPECT_EQ(bins[1].nats, 4);
  EXPECT_EQ(bins[1].tokens, 1);
}

TEST(Needle, PromptsHoldTheFactAtItsDepthAndHaveTheirLength) {
  const auto tokenizer = vocabulary({});
  std::string text;
  for (int i = 0; i < 60; ++i) text += "Real words here. ";
  const Ids filler = tokenizer.encode(text);
  const Needle n = needle(3);
  EXPECT_EQ(n.fact, n.question + n.answer + ".");
  EXPECT_EQ(n.answer.size(), 6u);
  EXPECT_EQ(needle(3).fact, n.fact);
  EXPECT_NE(needle(4).fact, n.fact);
  double last = -1;
  for (const double depth : {0.0, 0.3, 0.5, 1.0}) {
    const Ids ids = needle_prompt(tokenizer, n, filler, 500, depth);
    ASSERT_EQ(ids.size(), 500u);
    EXPECT_EQ(ids[0], 0);
    const std::string prompt = tokenizer.decode(ids);
    EXPECT_TRUE(prompt.ends_with("\n" + n.question));
    const size_t at = prompt.find("\n" + n.fact + "\n");
    ASSERT_NE(at, std::string::npos);
    EXPECT_EQ(prompt.substr(0, at), text.substr(0, at));
    if (at > 0 && depth < 1) {
      EXPECT_EQ(prompt[at - 1], '.');
    }
    EXPECT_NEAR(static_cast<double>(at), depth * static_cast<double>(500 - 2 * n.fact.size()), 20);
    EXPECT_GT(static_cast<double>(at), last);
    last = static_cast<double>(at);
  }
  const Ids without = needle_prompt(tokenizer, n, filler, 500, -1);
  EXPECT_EQ(without.size(), 500u);
  EXPECT_EQ(tokenizer.decode(without).find(n.fact), std::string::npos);
}

}  // namespace
}  // namespace rookery::eval
