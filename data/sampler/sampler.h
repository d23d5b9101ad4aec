// sampler.h: which window of a token set a sample is: pure functions of the global sample number, so a run
// resumes from one number, on any number of ranks. Several sets: mixture.h. Who reads the windows:
// data/loader/.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

namespace rookery::data {

class Sampler {
 public:
  virtual ~Sampler() = default;
  // First token of sample 0, 1, 2, ...: the sample reads seq_len + 1 tokens from there. Any number >= 0 is
  // allowed.
  virtual int64_t start(int64_t sample) const = 0;
  // After so many samples every window was seen once.
  virtual int64_t samples_per_epoch() const = 0;
};

enum class Sampling { kShuffled, kSequential, kMagicPrime };
// "shuffled", "sequential" or "magic_prime"; kConfig with the choices otherwise.
Sampling sampling_from_string(std::string_view name);

struct SamplerOptions {
  int64_t seq_len = 0;
  Sampling sampling = Sampling::kShuffled;
  uint64_t seed = 0;        // of the shuffle; magic_prime has none
  int64_t magic_prime = 0;  // 0: computed
};
// Throws kData (DATA-07) when num_tokens < seq_len + 1, kConfig (DATA-08) for a wrong magic prime.
std::unique_ptr<Sampler> make_sampler(int64_t num_tokens, const SamplerOptions& options);

// A permutation of 0 .. size-1, different for each (seed, epoch): four Feistel rounds on the smallest even
// number of bits that holds `size`, walked until the value falls inside.
int64_t permute(int64_t index, int64_t size, uint64_t seed, uint64_t epoch);

// RWKV-LM's order: sample ii = 1, 2, ... starts at ((f * ii^3) mod p) * seq_len, with a prime p that is 2
// modulo 3, so that cubing visits every window below p once.
namespace magic {

inline constexpr int64_t kMiniEpoch = 40320;  // samples of RWKV-LM's "epoch"

bool is_prime(int64_t n);
// The largest suitable prime for a set of num_tokens; 0 if none is above 0.9 of the number of windows.
int64_t prime_for(int64_t num_tokens, int64_t seq_len);
// f = trunc(p * (sqrt(5) - 1) / 2), one double product.
int64_t factor(int64_t prime);
// First token of sample ii >= 1.
int64_t start(int64_t ii, int64_t prime, int64_t seq_len);
// Throws kConfig (DATA-08), with the correct prime in the message.
void check_prime(int64_t prime, int64_t num_tokens, int64_t seq_len);
// A global batch must divide 40320 to follow RWKV-LM's epochs; throws kConfig (DATA-09) with the nearest that
// do.
void check_global_batch(int64_t sequences);

}  // namespace magic
}  // namespace rookery::data
