// eval_command_test.cpp: `rookery eval` and `rookery generate` on models trained here within seconds: figures
// against sums over log-probabilities taken from the logits, last-word tasks, and generation: seeds, greedy
// choice, stop strings, states, constant memory.
#include <gtest/gtest.h>
#include <malloc.h>

#include <cmath>
#include <csignal>
#include <nlohmann/json.hpp>

#include "data/dataset/token_set.h"
#include "data/tokenizer/tokenizer.h"
#include "kernels/base/str.h"
#include "tests/support/tiny_run.h"
#include "tests/support/tokenizer_json.h"
#include "trainer/eval/needle.h"
#include "trainer/eval/scorer.h"
#include "trainer/loop/session.h"
#include "trainer/models/registry.h"
#include "trainer/recipes/recipe.h"

namespace rookery {
namespace {

namespace fs = std::filesystem;

using nlohmann::json;
using test::run_rookery;

const std::vector<std::string> kPassages = {"the cat drinks milk", "my dog chews a bone",
                                            "one horse eats green grass"};

std::string jsonl(const std::vector<std::string>& texts) {
  std::string lines;
  for (const auto& text : texts) lines += json{{"text", text}}.dump() + "\n";
  return lines;
}

class ModelCommands : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    register_models();
    register_recipes();
    runs_ = std::make_unique<test::TinyRuns>();
    const auto fp64 = runs_->train("fp64", {"precision=fp64"});
    ASSERT_EQ(fp64.code, 0) << fp64.err;
    const auto attention =
        runs_->train("attention", {"precision=fp64", "model.arch=llama", "model.num_heads=2",
                                   "model.num_kv_heads=1", "model.ffn_size=48"});
    ASSERT_EQ(attention.code, 0) << attention.err;

    // A model that knows three passages by heart.
    put(runs_->folder(), "passages.jsonl", jsonl(kPassages));
    std::vector<std::string> many;
    for (int i = 0; i < 20; ++i) many.insert(many.end(), kPassages.begin(), kPassages.end());
    put(runs_->folder(), "many.jsonl", jsonl(many));
    for (const char* name : {"passages", "many"})
      ASSERT_EQ(run_rookery({"data", "prepare", "--tokenizer", path("vocab.txt"), "--in",
                             path(name + std::string(".jsonl")), "--out", path(name)})
                    .code,
                0);
    const auto heart =
        runs_->train("heart", {"data.sources[0].path=" + path("many.h5"), "data.seq_len=48",
                               "recipe.max_steps=150", "recipe.micro_batch_size=4", "optim.lr=1e-2",
                               "checkpoint.every_steps=0", "eval.every_steps=0", "log.every_steps=50"});
    ASSERT_EQ(heart.code, 0) << heart.err;
  }
  static void TearDownTestSuite() { runs_.reset(); }

  static std::string path(const std::string& name) { return runs_->path(name); }
  static json eval(const std::string& run, std::vector<std::string> more) {
    more.insert(more.begin(), {"eval", "--run", path(run), "--threads", "1", "--json"});
    const auto result = run_rookery(more);
    EXPECT_EQ(result.code, 0) << result.err;
    return result.code == 0 ? json::parse(result.out)["results"] : json();
  }
  static test::ProgramResult generate(const std::string& run, std::vector<std::string> more) {
    more.insert(more.begin(), {"generate", "--run", path(run), "--threads", "1"});
    return run_rookery(more);
  }

  // -sum of log-probabilities of ids[1..], from the logits of a pass over all of them at once.
  // doc_start: where documents start in ids, if that counts.
  static double nats(loop::Session& session, std::span<const int32_t> ids,
                     std::span<const uint8_t> doc_start = {}) {
    nn::SeqContext seq;
    nn::Context cx{nullptr, seq};
    const auto n = static_cast<int64_t>(ids.size()) - 1;
    if (!doc_start.empty()) seq.doc_start = tensor_from(doc_start, {1, n}, DType::kU8, *session.device);
    const Tensor x = tensor_from(ids.first(static_cast<size_t>(n)), {1, n}, DType::kI32, *session.device);
    const std::vector<double> logits = to_doubles(session.model->logits(cx, x).value());
    const int64_t V = session.model->vocab_size();
    double sum = 0;
    for (int64_t t = 0; t < n; ++t) {
      double total = 0;
      for (int64_t v = 0; v < V; ++v) total += std::exp(logits[t * V + v]);
      sum += std::log(total) - logits[t * V + ids[t + 1]];
    }
    return sum;
  }

  static inline std::unique_ptr<test::TinyRuns> runs_;
};

TEST_F(ModelCommands, BitsPerByteAreWhatTheLogitsSay) {
  for (const char* run : {"fp64", "attention"}) {
    loop::Session session = loop::load_session(path(run), 1);
    const auto tokenizer = data::load_tokenizer(path("vocab.txt"));
    double carried = 0, windows = 0, bytes = 0;
    for (const auto& text : kPassages) {
      std::vector<int32_t> ids{0};
      for (const int32_t id : tokenizer->encode(text)) ids.push_back(id);
      carried += nats(session, ids);
      for (size_t begin = 0; begin + 1 < ids.size(); begin += 8)
        windows += nats(session, std::span(ids).subspan(begin, std::min<size_t>(9, ids.size() - begin)));
      bytes += static_cast<double>(text.size());
    }
    ASSERT_GT(std::abs(carried - windows), 1e-6 * carried);
    for (const auto& [context, sum] : {std::pair{"carried", carried}, {"windows", windows}}) {
      const json row =
          eval(run, {"--text", path("passages.jsonl"), "--context", context, "--window", "8"})[0];
      EXPECT_NEAR(row["bits_per_byte"].get<double>(), sum / std::log(2.0) / bytes, 1e-10)
          << run << " " << context;
      EXPECT_NEAR(row["loss"].get<double>(), sum / bytes, 1e-10)
          << run << " " << context;  // a token is a byte here
      EXPECT_NEAR(row["perplexity"].get<double>(), std::exp(sum / bytes), 1e-8) << run << " " << context;
      EXPECT_EQ(row["documents"], 3);
    }
  }
}

TEST_F(ModelCommands, ValidationDuringTrainingStartsDocumentsAsTrainingDoes) {
  const auto run =
      runs_->train("resets", {"precision=fp64", "data.sources[0].path=" + path("many.h5"),
                              "data.val[0].path=" + path("many.h5"), "recipe.reset_at_documents=true",
                              "recipe.max_steps=30", "optim.lr=1e-2", "eval.every_steps=30"});
  ASSERT_EQ(run.code, 0) << run.err;
  double loss = 0;
  for (const auto& record : loop::read_metrics(path("resets/metrics.jsonl")))
    if (record["event"] == "eval") loss = record["loss"];

  loop::Session session = loop::load_session(path("resets"), 1);
  const auto set = data::open_token_set(path("many.h5"));
  constexpr int64_t T = 16, kWindows = 5;  // eval.max_tokens: 80
  double reset = 0, carried = 0;
  for (int64_t window = 0; window < kWindows; ++window) {
    std::vector<int32_t> ids(T + 1), before(1, 0);
    set->read(window * T, ids);
    if (window > 0) set->read(window * T - 1, before);
    std::vector<uint8_t> doc_start;
    for (int64_t t = 0; t < T; ++t) doc_start.push_back((t == 0 ? before[0] : ids[t - 1]) == 0);
    reset += nats(session, ids, doc_start) / (T * kWindows);
    carried += nats(session, ids) / (T * kWindows);
  }
  EXPECT_NEAR(loss, reset, 1e-6);
  EXPECT_GT(std::abs(loss - carried), 1e-4);
}

// Full passes replay one plan, and the ends of texts, each of another length, do not pile plans up.
TEST_F(ModelCommands, ScoringALongTextTakesTheMemoryOfAShortOne) {
  loop::Session session = loop::load_session(path("fp64"), 1);
  eval::Scorer scorer(*session.model, *session.device, 16);
  const std::vector<int32_t> ids(4000, 5);
  const auto in_use = [] { return mallinfo2().uordblks + mallinfo2().hblkhd; };
  const auto score = [&](size_t tokens) { scorer.score(std::span(ids).first(tokens)); };
  for (const size_t tokens : {40, 50, 60}) score(tokens);
  const auto before = in_use();
  for (const size_t tokens : {4000, 3999, 42, 43, 44, 45, 46, 47}) score(tokens);
  EXPECT_LT(in_use(), before + (16 << 10));
  const auto* plan = session.device->arena().plan("score next");
  ASSERT_NE(plan, nullptr);
  EXPECT_LT(plan->peak_bytes, size_t{1} << 20);
}

TEST_F(ModelCommands, ATokenSetScoresAsItsText) {
  json text = eval("fp64", {"--text", path("passages.jsonl")})[0];
  json set = eval("fp64", {"--set", path("passages.h5")})[0];
  text.erase("name");
  set.erase("name");
  EXPECT_EQ(text, set);
  EXPECT_EQ(eval("fp64", {"--set", path("passages.h5"), "--limit", "2"})[0]["documents"], 2);
}

TEST_F(ModelCommands, LastWordsOfPassagesKnownByHeart) {
  for (const char* protocol : {"harness", "rwkv"}) {
    const auto row = [&](const std::string& run) {
      return eval(run, {"--lambada", path("passages.jsonl"), "--protocol", protocol})[0];
    };
    EXPECT_EQ(row("heart")["accuracy"], 1.0) << protocol;
    EXPECT_LT(row("heart")["perplexity"].get<double>(), 2) << protocol;
    EXPECT_EQ(row("fp64")["accuracy"], 0.0) << protocol;
    EXPECT_EQ(row("fp64")["documents"], 3);
  }
}

TEST_F(ModelCommands, MultipleChoiceIsWhatTheLogitsSay) {
  loop::Session session = loop::load_session(path("fp64"), 1);
  // Choices of unequal length, in bytes and in characters, so that each way of counting picks its own.
  const std::vector<std::string> choices{"it is a horse",  "no",      "\u4f60\u597d\u4f60\u597d",
                                         "because it may", "\u00e9t", "the licence of the work"};
  std::string lines;
  std::vector<double> right(3);
  int64_t documents = 0;
  const auto ids_of = [](const std::string& text) {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c) + 1);
    return ids;
  };
  const auto length = [](const std::string& text) {
    return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
  };
  std::vector<double> own(3);
  for (const std::string protocol : {"harness", "rwkv"}) {
    lines.clear();
    right.assign(3, 0);
    documents = 0;
    for (size_t i = 0; i < choices.size(); ++i)
      for (size_t j = 0; j < choices.size(); ++j) {
        if (i == j) continue;
        const std::string goal = str("Goal number ", i * 7 + j, "?");
        const int label = i < j;
        lines +=
            json{{"goal", goal}, {"sol1", choices[i]}, {"sol2", choices[j]}, {"label", label}}.dump() + "\n";
        ++documents;
        std::vector<int32_t> context = ids_of("Question: " + goal + "\nAnswer:");
        if (protocol == "rwkv") context.insert(context.begin(), 0);
        double nats_of[2], chars[2], bytes[2];
        for (int k = 0; k < 2; ++k) {
          const std::string& choice = choices[k == 0 ? i : j];
          std::vector<int32_t> all = context;
          for (const int32_t id : ids_of(" " + choice)) all.push_back(id);
          nats_of[k] = nats(session, all) - nats(session, context);
          chars[k] = nats_of[k] / static_cast<double>(length(choice));
          bytes[k] = nats_of[k] / static_cast<double>(choice.size());
        }
        right[0] += (nats_of[1] < nats_of[0]) == (label == 1);
        right[1] += (chars[1] < chars[0]) == (label == 1);
        right[2] += (bytes[1] < bytes[0]) == (label == 1);
      }
    put(runs_->folder(), "piqa.jsonl", lines);
    const json row = eval("fp64", {"--task", "piqa=" + path("piqa.jsonl"), "--protocol", protocol})[0];
    const auto n = static_cast<double>(documents);
    EXPECT_EQ(row["documents"], documents);
    EXPECT_DOUBLE_EQ(row["accuracy"].get<double>(), right[0] / n) << protocol;
    EXPECT_DOUBLE_EQ(row["acc_norm"].get<double>(), right[1] / n) << protocol;
    EXPECT_DOUBLE_EQ(row["acc_bytes"].get<double>(), right[2] / n) << protocol;
    EXPECT_NE(right[0], right[1]);
    EXPECT_NE(right[1], right[2]);
    const double p = right[0] / n;
    EXPECT_NEAR(row["accuracy_stderr"].get<double>(), std::sqrt(p * (1 - p) / (n - 1)), 1e-12);
  }
}

// A state is replaced by each pass, a history of keys and values is written on: either serves all choices.
TEST_F(ModelCommands, ChoicesShareWhatWasReadOfTheContext) {
  std::string yaml = test::slurp(path("run.yaml"));
  const size_t at = yaml.find("model: {");
  yaml.replace(
      at, yaml.find('\n', at) - at,
      "model: {arch: llama, num_layers: 2, hidden_size: 32, num_heads: 2, ffn_size: 64, vocab_size: 257}");
  put(runs_->folder(), "llama.yaml", yaml);
  const auto trained = run_rookery(
      {"train", path("llama.yaml"), "run_dir=" + path("llama"), "precision=fp64", "recipe.max_steps=3"});
  ASSERT_EQ(trained.code, 0) << trained.err;
  const std::vector<int32_t> context{0, 84, 105, 102, 33, 100, 98, 117};
  const std::vector<std::vector<int32_t>> choices{
      {33, 101, 115, 106, 111, 108, 116, 33, 110, 106, 109, 108}, {98}, {33, 98, 117, 102, 33}};
  for (const char* run : {"fp64", "llama"}) {
    loop::Session session = loop::load_session(path(run), 1);
    eval::Scorer scorer(*session.model, *session.device, 3);
    const auto scores = scorer.continuations(context, choices);
    const double before = nats(session, context);
    for (size_t i = 0; i < choices.size(); ++i) {
      std::vector<int32_t> all = context;
      all.insert(all.end(), choices[i].begin(), choices[i].end());
      EXPECT_NEAR(scores[i].nats, nats(session, all) - before, 1e-9) << run << " " << i;
    }
  }
}

TEST_F(ModelCommands, OneContinuationOfTwoContexts) {
  loop::Session session = loop::load_session(path("fp64"), 1);
  put(runs_->folder(), "winogrande.jsonl",
      json{{"sentence", "The cat saw the dog, so _ ran off."},
           {"option1", "cat"},
           {"option2", "the dog"},
           {"answer", "1"}}
          .dump());
  double best[2];
  for (int k = 0; k < 2; ++k) {
    const std::string context = std::string("The cat saw the dog, so ") + (k == 0 ? "cat" : "the dog");
    std::vector<int32_t> ids;
    for (const char c : context) ids.push_back(static_cast<unsigned char>(c) + 1);
    const double before = nats(session, ids);
    for (const char c : std::string(" ran off.")) ids.push_back(static_cast<unsigned char>(c) + 1);
    best[k] = nats(session, ids) - before;
  }
  const json row = eval("fp64", {"--task", "winogrande=" + path("winogrande.jsonl")})[0];
  EXPECT_EQ(row["accuracy"], best[0] <= best[1] ? 1.0 : 0.0);
  EXPECT_FALSE(row.contains("acc_norm"));
}

TEST_F(ModelCommands, PerplexityOfLastWordsAndItsError) {
  loop::Session session = loop::load_session(path("fp64"), 1);
  double sum = 0;
  for (const auto& text : kPassages) {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c) + 1);
    sum += nats(session, ids) - nats(session, std::span(ids).first(text.rfind(' ')));
  }
  const json row = eval("fp64", {"--lambada", path("passages.jsonl")})[0];
  EXPECT_EQ(row["task"], "lambada_openai");
  EXPECT_NEAR(row["perplexity"].get<double>() / std::exp(sum / 3), 1, 1e-9);
  EXPECT_GT(row["perplexity_stderr"].get<double>(), 0);
  // The same through passes of three tokens.
  EXPECT_NEAR(
      eval("fp64", {"--lambada", path("passages.jsonl"), "--window", "3"})[0]["perplexity"].get<double>() /
          row["perplexity"].get<double>(),
      1, 1e-9);
}

TEST_F(ModelCommands, LossByPosition) {
  loop::Session session = loop::load_session(path("fp64"), 1);
  std::vector<double> expected(6);  // positions 1, 2, 3-4, 5-8, 9-16, 17-20
  std::vector<int32_t> ids{0};
  for (const char c : kPassages[2]) ids.push_back(static_cast<unsigned char>(c) + 1);
  const size_t edges[] = {1, 2, 3, 5, 9, 17, 21};
  for (int bin = 0; bin < 6; ++bin)
    expected[bin] +=
        nats(session, std::span(ids).first(edges[bin + 1])) - nats(session, std::span(ids).first(edges[bin]));
  const std::vector<std::string> words{"--by-position", "20", "--window", "6"};
  for (const std::vector<std::string>& source :
       {std::vector<std::string>{"--text", path("passages.jsonl")}, {"--set", path("passages.h5")}}) {
    auto all = words;
    all.insert(all.end(), source.begin(), source.end());
    const json row = eval("fp64", all)[0];
    EXPECT_EQ(row["documents"], 1);  // the others have 19 tokens
    EXPECT_EQ(row["shorter"], 2);
    const json& table = row["by_position"];
    ASSERT_EQ(table.size(), 6u);
    const double sizes[] = {1, 1, 2, 4, 8, 4};
    for (int bin = 0; bin < 6; ++bin) {
      EXPECT_EQ(table[bin]["tokens"], sizes[bin]);
      EXPECT_NEAR(table[bin]["loss"].get<double>(), expected[bin] / sizes[bin], 1e-9) << bin;
    }
  }
  auto wide = words;
  wide.insert(wide.end(), {"--text", path("passages.jsonl"), "--bin-width", "10"});
  EXPECT_EQ(eval("fp64", wide)[0]["by_position"].size(), 2u);
}

TEST_F(ModelCommands, NeedlesInRealText) {
  loop::Session session = loop::load_session(path("fp64"), 1);
  const auto tokenizer = data::load_tokenizer(path("vocab.txt"));
  const std::vector<std::string> words{"--needle",         path("tokens.txt"),
                                       "--needle-lengths", "200,300",
                                       "--needle-depths",  "0,50",
                                       "--needle-samples", "2"};
  const json table = eval("fp64", words)[0]["needle"];
  ASSERT_EQ(table.size(), 4u);
  EXPECT_EQ(table, eval("fp64", words)[0]["needle"]);
  const std::vector<int32_t> text = tokenizer->encode(test::slurp("LICENSE"));
  double with = 0, without = 0;  // length 300, depth 50 %
  for (int i = 0; i < 2; ++i) {
    const eval::Needle n = eval::needle(i);
    const auto filler = std::span(text).subspan((text.size() - 300) * i / 2);
    for (const double depth : {0.5, -1.0}) {
      std::vector<int32_t> ids = eval::needle_prompt(*tokenizer, n, filler, 300, depth);
      const double before = nats(session, ids);
      for (const int32_t id : tokenizer->encode(n.answer)) ids.push_back(id);
      (depth > 0 ? with : without) += nats(session, ids) - before;
    }
  }
  EXPECT_EQ(table[3]["length"], 300);
  EXPECT_EQ(table[3]["depth"], 0.5);
  EXPECT_EQ(table[3]["samples"], 2);
  EXPECT_NEAR(table[3]["logprob"].get<double>(), -with / 2, 1e-8);
  EXPECT_NEAR(table[3]["logprob_without"].get<double>(), -without / 2, 1e-8);
}

TEST_F(ModelCommands, ByteLevelBpeFromTextToText) {
  json tokenizer = test::bpe_json(data::SplitPattern::kLlama3,
                                  {{"t", "h"}, {"th", "e"}, {" ", "g"}});  // 259: <|endoftext|>
  tokenizer["added_tokens"].push_back(test::added_token(260, "<|begin_of_text|>", true, false));
  put(runs_->folder(), "tokenizer.json", tokenizer.dump());
  for (const char* name : {"passages", "many"})
    ASSERT_EQ(run_rookery({"data", "prepare", "--tokenizer", path("tokenizer.json"), "--in",
                           path(name + std::string(".jsonl")), "--out", path(name + std::string("-bpe"))})
                  .code,
              0);
  const auto trained = runs_->train(
      "bpe", {"precision=fp64", "model.vocab_size=261", "data.tokenizer=" + path("tokenizer.json"),
              "data.sources[0].path=" + path("many-bpe.h5"), "data.val[0].path=" + path("passages-bpe.h5")});
  ASSERT_EQ(trained.code, 0) << trained.err;
  json text = eval("bpe", {"--text", path("passages.jsonl")})[0];
  json set = eval("bpe", {"--set", path("passages-bpe.h5")})[0];
  EXPECT_EQ(text["bytes"], kPassages[0].size() + kPassages[1].size() + kPassages[2].size());
  EXPECT_LT(text["tokens"], text["bytes"]);
  text.erase("name");
  set.erase("name");
  EXPECT_EQ(text, set);
  const auto generated = generate("bpe", {"--prompt", "the<|begin_of_text|>", "--max-tokens", "4"});
  EXPECT_EQ(generated.code, 0) << generated.err;
  EXPECT_TRUE(generated.out.starts_with("the<|begin_of_text|>"));
  // A model that was trained with other tokens.
  EXPECT_EQ(run_rookery({"eval", "--run", path("fp64"), "--vocab", path("tokenizer.json"), "--text",
                         path("passages.jsonl")})
                .code,
            65);
}

TEST_F(ModelCommands, BadInputIsNamed) {
  put(runs_->folder(), "bad.jsonl", jsonl({"two words"}) + "{\"text\": \n");
  put(runs_->folder(), "one.jsonl", jsonl({"word"}));
  put(runs_->folder(), "empty.jsonl", "");
  struct Case {
    std::vector<std::string> words;
    int code;
    std::string says;
  };
  const Case cases[] = {
      {{"--lambada", path("bad.jsonl")}, 65, "bad.jsonl:2"},
      {{"--text", path("bad.jsonl")}, 65, "bad.jsonl:2"},
      {{"--task", "piqa=" + path("one.jsonl")}, 65, "one.jsonl:1: has no field"},
      {{"--task", "mmlu=" + path("one.jsonl")}, 64, "EVAL-04"},
      {{"--task", path("one.jsonl")}, 64, "NAME=FILE"},
      {{"--task", "piqa=" + path("absent.jsonl")}, 66, "absent.jsonl"},
      {{"--needle", path("one.jsonl")}, 65, "EVAL-05"},
      {{"--needle", path("tokens.txt"), "--needle-lengths", "20"}, 64, "EVAL-05"},
      {{"--needle", path("tokens.txt"), "--needle-lengths", "200,x"}, 64, "CLI-05"},
      {{"--needle", path("tokens.txt"), "--needle-depths", "101"}, 64, "CLI-05"},
      {{"--text", path("passages.jsonl"), "--by-position", "100"}, 65, "EVAL-06"},
      {{"--text", path("passages.jsonl"), "--by-position", "9", "--context", "windows"}, 64, "--context"},
      {{"--lambada", path("one.jsonl")}, 65, "EVAL-02"},
      {{"--text", path("empty.jsonl")}, 65, "EVAL-01"},
      {{"--text", path("absent.txt")}, 66, "absent.txt"},
      {{"--set", path("passages.jsonl")}, 65, "passages.jsonl"},
      {{}, 64, "CLI-08"}};
  for (const Case& c : cases) {
    auto words = c.words;
    words.insert(words.begin(), {"eval", "--run", path("fp64")});
    const auto result = run_rookery(words);
    EXPECT_EQ(result.code, c.code) << c.says << ": " << result.err;
    EXPECT_NE(result.err.find(c.says), std::string::npos) << result.err;
  }
  EXPECT_EQ(run_rookery({"eval", "--run", path("absent"), "--text", path("passages.jsonl")}).code, 66);
}

TEST_F(ModelCommands, NamesOfFilesNeedNotBeUtf8) {
  put(runs_->folder(), "odd\xff.txt", "two words");
  const auto result = run_rookery(
      {"eval", "--run", path("fp64"), "--text", path("odd\xff.txt"), "--json", "--out", path("odd.json")});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(test::slurp(path("odd.json")), result.out);
}

TEST_F(ModelCommands, TheSameSeedGivesTheSameText) {
  const auto text = [](const char* seed) {
    return generate("fp64", {"--max-tokens", "40", "--top-p", "1", "--past-end", "--seed", seed}).out;
  };
  EXPECT_EQ(text("1"), text("1"));
  EXPECT_NE(text("1"), text("2"));
}

TEST_F(ModelCommands, GreedyChoiceTellsWhatItKnows) {
  for (const std::vector<std::string>& greedy :
       {std::vector<std::string>{"--temperature", "0"}, {"--top-p", "0", "--seed", "5"}, {"--top-k", "1"}}) {
    auto words = greedy;
    words.insert(words.end(), {"--prompt", "my dog"});
    const auto result = generate("heart", words);
    EXPECT_EQ(result.out, "my dog chews a bone\n") << result.err;
    words.push_back("--no-echo");
    EXPECT_EQ(generate("heart", words).out, " chews a bone\n");
  }
}

TEST_F(ModelCommands, StopStringsEndTheTextBeforeThem) {
  const auto until = [](const std::vector<std::string>& stops) {
    std::vector<std::string> words{"--temperature", "0", "--prompt", "one horse"};
    for (const auto& stop : stops) words.insert(words.end(), {"--stop", stop});
    return generate("heart", words).out;
  };
  EXPECT_EQ(until({" green"}), "one horse eats\n");  // six tokens
  EXPECT_EQ(until({"s g", "zzz"}), "one horse eat\n");
  EXPECT_EQ(until({"grasses"}), "one horse eats green grass\n");  // begun, never complete
  EXPECT_EQ(generate("heart", {"--stop", ""}).code, 64);
}

TEST_F(ModelCommands, PromptsOfAnyBytesAndOptionsOutOfBounds) {
  EXPECT_EQ(generate("heart", {"--temperature", "0", "--max-tokens", "0"}).out, "\n");
  const auto empty = generate("heart", {"--prompt", "", "--temperature", "0"});
  EXPECT_EQ(empty.code, 0) << empty.err;
  const std::string known = empty.out.substr(0, empty.out.find('\n'));
  EXPECT_NE(std::find(kPassages.begin(), kPassages.end(), known), kPassages.end()) << known;
  const auto bytes = generate("heart", {"--prompt", "\xff\xc3(", "--max-tokens", "3"});
  EXPECT_EQ(bytes.code, 0) << bytes.err;
  EXPECT_TRUE(bytes.out.starts_with("\xff\xc3("));
  const std::vector<std::string> bad[] = {{"--temperature", "nan"},
                                          {"--temperature", "-1"},
                                          {"--top-p", "1.5"},
                                          {"--top-k", "-1"},
                                          {"--max-tokens", "-1"}};
  for (const auto& words : bad) EXPECT_EQ(generate("heart", words).code, 64) << words[0] << words[1];
}

TEST_F(ModelCommands, ASavedStateGoesOnAsIfNothingHadBeen) {
  const auto greedy = [](const std::string& run, std::vector<std::string> words) {
    words.insert(words.end(), {"--temperature", "0", "--past-end"});
    return generate(run, words);
  };
  const std::string state = path("state.h5");
  const auto whole = greedy("heart", {"--prompt", "my dog", "--max-tokens", "30"});
  ASSERT_TRUE(whole.out.starts_with("my dog chews a bone")) << whole.out;
  auto first = greedy("heart", {"--prompt", "my dog", "--max-tokens", "3", "--state-out", state});
  ASSERT_EQ(first.out, "my dog ch\n") << first.err;
  const auto rest = greedy("heart", {"--state-in", state, "--max-tokens", "27"});
  first.out.pop_back();  // the line end
  EXPECT_EQ(first.out + rest.out, whole.out);
  // Wherever the weights lie, and with any number of threads.
  fs::copy(path("heart"), path("moved"), fs::copy_options::recursive);
  const auto moved = run_rookery({"generate", "--run", path("moved"), "--threads", "2", "--state-in", state,
                                  "--max-tokens", "27", "--temperature", "0", "--past-end"});
  EXPECT_EQ(moved.out, rest.out) << moved.err;

  const auto others = greedy("fp64", {"--state-in", state});
  EXPECT_EQ(others.code, 65);
  EXPECT_NE(others.err.find("GEN-05"), std::string::npos) << others.err;
  fs::resize_file(state, fs::file_size(state) / 2);
  EXPECT_EQ(greedy("heart", {"--state-in", state}).code, 65);
  EXPECT_EQ(greedy("heart", {"--state-in", path("passages.h5")}).code, 65);
}

// What a model with attention keeps grows with the text.
TEST_F(ModelCommands, SavedKeysAndValuesGoOnAsIfNothingHadBeen) {
  const auto greedy = [](std::vector<std::string> words) {
    words.insert(words.end(), {"--temperature", "0", "--past-end"});
    return generate("attention", words);
  };
  const std::string state = path("keys.h5"), prompt(300, 'a');
  const auto whole = greedy({"--prompt", prompt, "--max-tokens", "30"});
  ASSERT_EQ(whole.code, 0) << whole.err;
  auto first = greedy({"--prompt", prompt, "--max-tokens", "3", "--state-out", state});
  const auto rest = greedy({"--state-in", state, "--max-tokens", "27"});
  first.out.pop_back();  // the line end
  EXPECT_EQ(first.out + rest.out, whole.out) << first.err << rest.err;
  fs::resize_file(state, fs::file_size(state) / 2);
  EXPECT_EQ(greedy({"--state-in", state}).code, 65);
}

// Peak memory of a generation, KiB: read while the process stands still before it writes its state.
int64_t peak_of(const test::TinyRuns& runs, const std::string& tokens) {
  const char* program = std::getenv("ROOKERY_BIN");
  const test::Paused process(test::start(
      {program ? program : "build/bin/rookery", "generate", "--run", runs.path("heart"), "--threads", "1",
       "--past-end", "--max-tokens", tokens, "--state-out", runs.path("end.h5")},
      {{"ROOKERY_FAULT", "state.open:stop"}}));
  const std::string status = test::slurp(str("/proc/", process.pid(), "/status"));
  const size_t at = status.find("VmHWM:");
  return process.stopped() && at != std::string::npos ? std::stoll(status.substr(at + 6)) : -1;
}

TEST_F(ModelCommands, MemoryDoesNotGrowWithTheText) {
  const int64_t few = peak_of(*runs_, "200"), many = peak_of(*runs_, "4000");
  ASSERT_GT(few, 0);
  EXPECT_LE(many - few, 2048);
}

}  // namespace
}  // namespace rookery
