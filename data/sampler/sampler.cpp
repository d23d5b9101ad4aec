// sampler.cpp: the three orders of windows. Golden values: tests/data/sampler_test.cpp.
#include "data/sampler/sampler.h"

#include <array>
#include <bit>
#include <cmath>

#include "kernels/base/error.h"

namespace rookery::data {

namespace {

using uint128 = unsigned __int128;

uint64_t mul_mod(uint64_t a, uint64_t b, uint64_t m) { return static_cast<uint64_t>(uint128{a} * b % m); }

uint64_t pow_mod(uint64_t base, uint64_t exponent, uint64_t m) {
  uint64_t result = 1;
  for (base %= m; exponent != 0; exponent >>= 1, base = mul_mod(base, base, m))
    if (exponent & 1) result = mul_mod(result, base, m);
  return result;
}

// splitmix64 (Steele, Lea, Flood 2014): every input bit moves every output bit.
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

class SequentialSampler final : public Sampler {
 public:
  SequentialSampler(int64_t windows, int64_t seq_len) : windows_(windows), seq_len_(seq_len) {}
  int64_t start(int64_t sample) const override { return sample % windows_ * seq_len_; }
  int64_t samples_per_epoch() const override { return windows_; }

 private:
  int64_t windows_, seq_len_;
};

class ShuffledSampler final : public Sampler {
 public:
  ShuffledSampler(int64_t windows, int64_t seq_len, uint64_t seed)
      : windows_(windows), seq_len_(seq_len), seed_(seed) {}
  int64_t start(int64_t sample) const override {
    return permute(sample % windows_, windows_, seed_, static_cast<uint64_t>(sample / windows_)) * seq_len_;
  }
  int64_t samples_per_epoch() const override { return windows_; }

 private:
  int64_t windows_, seq_len_;
  uint64_t seed_;
};

class MagicPrimeSampler final : public Sampler {
 public:
  MagicPrimeSampler(int64_t prime, int64_t seq_len) : prime_(prime), seq_len_(seq_len) {}
  int64_t start(int64_t sample) const override { return magic::start(sample + 1, prime_, seq_len_); }
  int64_t samples_per_epoch() const override { return prime_; }

 private:
  int64_t prime_, seq_len_;
};

}  // namespace

Sampling sampling_from_string(std::string_view name) {
  if (name == "shuffled") return Sampling::kShuffled;
  if (name == "sequential") return Sampling::kSequential;
  if (name == "magic_prime") return Sampling::kMagicPrime;
  fail(ExitCode::kConfig, "DATA-08", "sampling is '", name,
       "', expected shuffled, sequential or magic_prime");
}

int64_t permute(int64_t index, int64_t size, uint64_t seed, uint64_t epoch) {
  RK_CHECK(index >= 0 && index < size, "[permute] index ", index, " of ", size);
  const int half = (std::bit_width(static_cast<uint64_t>(size - 1)) + 1) / 2;
  const uint64_t mask = (uint64_t{1} << half) - 1, key = mix(seed) ^ mix(~epoch);
  uint64_t value = static_cast<uint64_t>(index);
  do {
    uint64_t left = value >> half, right = value & mask;
    for (uint64_t round = 0; round < 4; ++round) {
      uint64_t next = left ^ (mix(key + mix(right) + round) & mask);
      left = right;
      right = next;
    }
    value = left << half | right;
  } while (value >= static_cast<uint64_t>(size));
  return static_cast<int64_t>(value);
}

std::unique_ptr<Sampler> make_sampler(int64_t num_tokens, const SamplerOptions& options) {
  const int64_t T = options.seq_len;
  if (T < 1) fail(ExitCode::kConfig, "DATA-07", "seq_len is ", T, ", expected 1 or more");
  if (num_tokens <= T)
    fail(ExitCode::kData, "DATA-07", "the token set holds ", num_tokens,
         " tokens, expected at least seq_len + 1 = ", T, " + 1: lower data.seq_len or take more text");
  const int64_t windows = (num_tokens - 1) / T;
  if (options.sampling == Sampling::kSequential) return std::make_unique<SequentialSampler>(windows, T);
  if (options.sampling == Sampling::kShuffled)
    return std::make_unique<ShuffledSampler>(windows, T, options.seed);
  const int64_t prime = options.magic_prime != 0 ? options.magic_prime : magic::prime_for(num_tokens, T);
  magic::check_prime(prime, num_tokens, T);
  return std::make_unique<MagicPrimeSampler>(prime, T);
}

namespace magic {

bool is_prime(int64_t n) {
  constexpr std::array<uint64_t, 12> kBases = {2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37};
  if (n < 2) return false;
  const uint64_t m = static_cast<uint64_t>(n);
  for (uint64_t base : kBases)
    if (m % base == 0) return m == base;
  // Miller-Rabin; these bases decide every 64-bit number (Sorenson and Webster 2015).
  const int twos = std::countr_zero(m - 1);
  for (uint64_t base : kBases) {
    uint64_t x = pow_mod(base, (m - 1) >> twos, m);
    bool composite = x != 1 && x != m - 1;
    for (int i = 1; i < twos && composite; ++i) {
      x = mul_mod(x, x, m);
      composite = x != m - 1;
    }
    if (composite) return false;
  }
  return true;
}

// RWKV-LM's assertion, and that the last window has its last target. For p <= num_tokens / seq_len, so
// nothing overflows.
static bool fits(int64_t p, int64_t num_tokens, int64_t seq_len) {
  const int64_t slots = num_tokens / seq_len;
  return p <= slots && static_cast<double>(p) > 0.9 * static_cast<double>(slots) &&
         p * seq_len + 1 <= num_tokens;
}

int64_t prime_for(int64_t num_tokens, int64_t seq_len) {
  for (int64_t p = num_tokens / seq_len - 1; fits(p, num_tokens, seq_len); --p)
    if (p % 3 == 2 && is_prime(p)) return p;
  return 0;
}

int64_t factor(int64_t prime) {
  constexpr double kGolden = 0x1.3c6ef372fe950p-1;  // (sqrt(5) - 1) / 2
  return static_cast<int64_t>(static_cast<double>(prime) * kGolden);
}

int64_t start(int64_t ii, int64_t prime, int64_t seq_len) {
  const uint64_t p = static_cast<uint64_t>(prime), m = static_cast<uint64_t>(ii) % p;
  const uint64_t cube = mul_mod(mul_mod(m, m, p), m, p);
  return static_cast<int64_t>(mul_mod(static_cast<uint64_t>(factor(prime)), cube, p)) * seq_len;
}

void check_prime(int64_t prime, int64_t num_tokens, int64_t seq_len) {
  const int64_t slots = num_tokens / seq_len, good = prime_for(num_tokens, seq_len);
  if (good == 0)
    fail(ExitCode::kData, "DATA-08", num_tokens, " tokens make ", slots, " windows of ", seq_len,
         " tokens, too few for sampling by magic prime: use sampling: shuffled");
  const char* fault = !is_prime(prime)                    ? "is not prime"
                      : prime % 3 != 2                    ? "is not 2 modulo 3"
                      : !fits(prime, num_tokens, seq_len) ? "does not fit the data"
                                                          : nullptr;
  if (fault)
    fail(ExitCode::kConfig, "DATA-08", "magic prime ", prime, " ", fault, ", expected ", good, " for ",
         num_tokens, " tokens in ", slots, " windows of ", seq_len);
}

void check_global_batch(int64_t sequences) {
  if (sequences >= 1 && kMiniEpoch % sequences == 0) return;
  int64_t below = std::min(std::max<int64_t>(sequences, 1), kMiniEpoch), above = below;
  while (kMiniEpoch % below != 0) --below;
  while (kMiniEpoch % above != 0) ++above;
  fail(ExitCode::kConfig, "DATA-09", "the global batch is ", sequences, " sequences, expected a divisor of ",
       kMiniEpoch, " for sampling by magic prime: the nearest are ", below, " and ", above);
}

}  // namespace magic
}  // namespace rookery::data
