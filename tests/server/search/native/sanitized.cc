// Searches random shards as every variant that this CPU can run, on several threads, and compares
// the answers with sorting all scores. `make sanitize` builds it with the sanitizers of the
// compiler, which end it at the first fault.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "top_k.h"

using namespace phoenix;

namespace {

constexpr int kWorkers = 3;

struct Corpus {
  int64_t width;
  int32_t rows;
  std::vector<float> vectors;
  std::vector<uint32_t> ids;
  std::vector<uint8_t> codes;
  std::vector<float> bounds;
  float longest = 0;
};

Corpus Draw(std::mt19937_64& random, int64_t width, int32_t rows, bool equal) {
  Corpus corpus{width, rows, {}, {}, {}, {}};
  std::normal_distribution<float> normal;
  corpus.vectors.resize(rows * width);
  for (auto& value : corpus.vectors) value = normal(random);
  if (equal) {
    for (int64_t i = width; i < rows * width; i++) corpus.vectors[i] = corpus.vectors[i - width];
  }
  std::vector<uint32_t> order(rows);
  std::iota(order.begin(), order.end(), 1u);
  std::shuffle(order.begin(), order.end(), random);
  for (uint32_t id : order) {
    corpus.ids.push_back(id % 3);
    corpus.ids.push_back(id);
  }
  corpus.codes.resize(rows * Quads(width) * 4);
  corpus.bounds.resize(rows * 2);
  for (int32_t row = 0; row < rows; row++) {
    const float* vector = &corpus.vectors[row * width];
    kPortable.encode(vector, width, row % kGroup,
                     &corpus.codes[row / kGroup * Quads(width) * 64],
                     &corpus.bounds[row / kGroup * 2 * kGroup]);
    double squares = 0;
    for (int64_t i = 0; i < width; i++) squares += double{vector[i]} * vector[i];
    corpus.longest = std::max(corpus.longest, static_cast<float>(1.0001 * std::sqrt(squares)));
  }
  return corpus;
}

void RunThreads(int workers, const std::function<void(int)>& function) {
  std::vector<std::thread> threads;
  for (int worker = 1; worker < workers; worker++) threads.emplace_back(function, worker);
  function(0);
  for (auto& thread : threads) thread.join();
}

// Returns whether the answer of each query is that of sorting all scores.
bool IsExact(const Variant& variant, const Corpus& corpus, int32_t batch, int32_t k, double share,
             std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  std::bernoulli_distribution chosen(share);
  std::vector<float> queries(batch * corpus.width);
  for (auto& value : queries) value = normal(random);
  const int64_t words = corpus.rows / kPair;
  std::vector<uint32_t> eligible(batch * words);
  for (auto& word : eligible) {
    for (int bit = 0; bit < kPair; bit++) word |= uint32_t{chosen(random)} << bit;
  }
  std::vector<float> scores(batch * k);
  std::vector<int32_t> rows(batch * k);
  const Shard shard = {corpus.vectors.data(), corpus.ids.data(), corpus.codes.data(),
                       corpus.bounds.data(),  corpus.longest,    corpus.width, corpus.rows};
  std::vector<int32_t> wanted(batch);
  for (auto& count : wanted) count = static_cast<int32_t>(random() % (k + 1));
  const Search search = {queries.data(),  wanted.data(), batch,         k,
                         eligible.data(), words,         scores.data(), rows.data()};
  FindTopK(variant, shard, search, kWorkers, RunThreads);
  std::vector<float> all(corpus.rows);
  std::vector<int32_t> numbers(corpus.rows);
  std::iota(numbers.begin(), numbers.end(), 0);
  auto id = [&](int32_t row) {
    return uint64_t{corpus.ids[2 * row]} << 32 | corpus.ids[2 * row + 1];
  };
  for (int32_t q = 0; q < batch; q++) {
    kPortable.score(corpus.vectors.data(), corpus.width, numbers.data(), corpus.rows,
                    &queries[q * corpus.width], all.data());
    std::vector<int32_t> order;
    for (int32_t row : numbers) {
      if (eligible[q * words + row / kPair] >> (row % kPair) & 1) order.push_back(row);
    }
    std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return all[a] > all[b] || (all[a] == all[b] && id(a) < id(b));
    });
    for (int32_t i = 0; i < k; i++) {
      const bool there = i < std::min(wanted[q], static_cast<int32_t>(order.size()));
      const float score = there ? all[order[i]] : -INFINITY;
      if (scores[q * k + i] != score || (there && rows[q * k + i] != order[i])) return false;
    }
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 20;
  int count;
  const Variant* const* variants = Variants(&count);
  std::mt19937_64 random(1);
  for (int round = 0; round < rounds; round++) {
    const int64_t width = std::vector<int64_t>{16, 31, 64, 128, 130}[random() % 5];
    const auto rows = static_cast<int32_t>(kTileRows * (1 + random() % 12));
    const Corpus corpus = Draw(random, width, rows, round % 5 == 4);
    const auto batch = static_cast<int32_t>(1 + random() % 40);
    const auto k = static_cast<int32_t>(1 + random() % std::min(rows, 700));
    const double share = std::vector<double>{0.01, 0.5, 1.0}[random() % 3];
    for (int i = 0; i < count; i++) {
      if (!variants[i]->available(Quads(width))) continue;
      if (!IsExact(*variants[i], corpus, batch, k, share, random)) {
        std::printf("round %d: %s is wrong\n", round, variants[i]->name);
        return 1;
      }
    }
  }
  std::printf("%d rounds: no difference\n", rounds);
}
