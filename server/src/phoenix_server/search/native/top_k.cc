// How the search stays exact and bounded.
//
// The scan gives each row an upper bound of its score. Of each query a threshold is known that at
// least k scored rows reach; rows whose upper bound is below it cannot belong to the answer. Rows
// that may belong to it are candidates. When there are many, the best of them are scored in
// float32, which raises the threshold and drops most of the others. At the end all remaining
// candidates are scored, and the best k by (score descending, id ascending) are the answer.
//
// The search begins with a guess of the threshold: a score that a few more than k rows should
// reach, as one row in sixteen says. A guess that fewer than k rows reach is withdrawn, and the
// query is searched without one. So a guess saves time and changes no answer.
//
// Where a filter leaves so few rows that scoring them costs less than the scan, they are scored.
//
// Tiles are visited in an order that is spread over the shard, so that a threshold is good early
// whatever the order of the rows.
#include "top_k.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <deque>
#include <limits>
#include <memory>
#include <numeric>
#include <vector>

#include "findings.h"
#include "query_codes.h"

namespace phoenix {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();
constexpr int32_t kFewest = 256;              // beyond k, so that the best are chosen seldom
constexpr int64_t kScoredAtOnce = 64;
constexpr int32_t kSampled = 16;              // one pair of groups in so many is sampled
// About what it costs to scan a pair of groups, and to do so for one more query, where scoring a row
// costs 1.
constexpr double kScanCost = 4, kScanMoreCost = 0.17;
constexpr int64_t kSpanRows = 32 * kTileRows;  // whose eligible rows one thread scores
constexpr int32_t kManyHits = kTileRows / 4;  // so many rows of a tile are scored at once
constexpr int64_t kMaxWorkBytes = 256 << 20;  // for candidates; more queries are searched in turns

class TopKSearch {
 public:
  TopKSearch(const Variant& variant, const Shard& shard, const Search& search, int workers,
             const RunTogether& run)
      : variant_(variant),
        shard_(shard),
        search_(search),
        workers_(workers),
        run_(run),
        padded_(Quads(shard.width) * 4) {}

  void Run() {
    Prepare();
    work_ = Pool().Take();
    int32_t most = 1;
    for (const Query& query : queries_) most = std::max(most, query.wanted);
    const int64_t each = workers_ * (2 * Limit(most) + kTileRows) * 8;
    const auto at_once =
        static_cast<size_t>(std::clamp<int64_t>(kMaxWorkBytes / each, 1, search_.batch));
    for (size_t first = 0; first < queries_.size(); first += at_once) {
      const size_t last = std::min(queries_.size(), first + at_once);
      std::vector<Query*> some, few;
      for (size_t i = first; i < last; i++) some.push_back(&queries_[i]);
      ForEach(static_cast<int64_t>(some.size()),
              [&](int, int64_t i) { some[i]->few = HasFewRows(*some[i], some.size()); });
      const auto scanned = std::stable_partition(some.begin(), some.end(),
                                                 [](const Query* each) { return !each->few; });
      few.assign(scanned, some.end());
      some.erase(scanned, some.end());
      ScoreAllFor(few);
      Guess(some);
      SearchFor(some);
      // A guess was too high: search without it.
      some.erase(std::remove_if(some.begin(), some.end(), [](Query* each) { return each->done; }),
                 some.end());
      for (Query* query : some) query->threshold.store(kNone);
      SearchFor(some);
    }
    Pool().Give(std::move(work_));
  }

 private:
  struct Query {
    Query(size_t number, int32_t place, int32_t wanted, const float* vector,
          const uint32_t* eligible)
        : number(number), place(place), wanted(wanted), vector(vector), eligible(eligible) {}
    size_t number;   // among those that are no padding
    int32_t place;   // in the batch
    int32_t wanted;  // rows of its answer
    int32_t k = 0;   // the best rows that are looked for: of a sample, or those wanted
    const float* vector;
    const uint32_t* eligible;
    CodedQuery coded;
    std::atomic<float> threshold{kNone};
    bool few = false;   // whether its rows are scored without a scan
    bool done = false;  // whether its answer is written
  };

  // How many candidates, or scored rows, are kept before the worst of them are dropped.
  static int64_t Limit(int32_t k) { return int64_t{k} + std::max(k, kFewest); }

  // Codes the queries; a query of zeros is padding, as is one that wants nothing.
  void Prepare() {
    std::fill_n(search_.scores, int64_t{search_.batch} * search_.k, kNone);
    std::fill_n(search_.rows, int64_t{search_.batch} * search_.k, 0);
    for (int32_t place = 0; place < search_.batch; place++) {
      const float* vector = search_.queries + place * shard_.width;
      bool finite = true, zero = true;
      for (int64_t i = 0; i < shard_.width; i++) {
        finite &= std::isfinite(vector[i]);
        zero &= vector[i] == 0;
      }
      if (!finite) {
        std::fill_n(search_.scores + int64_t{place} * search_.k, search_.k, NAN);
      } else if (const int32_t wanted = std::min(search_.wanted[place], search_.k);
                 !zero && wanted > 0) {
        queries_.emplace_back(queries_.size(), place, wanted, vector,
                              search_.eligible + place * search_.eligible_stride);
      }
    }
    codes_.resize(queries_.size() * padded_);
    fine_codes_.resize(codes_.size());
    for (Query& query : queries_) {
      const size_t at = query.number * padded_;
      query.coded =
          Code(query.vector, shard_.width, shard_.longest, &codes_[at], &fine_codes_[at]);
    }
  }

  // Begins the search of some queries, whose `k` is set.
  void Begin(const std::vector<Query*>& queries) {
    active_ = queries;
    const size_t count = active_.size();
    work_->findings.resize(std::max(work_->findings.size(), workers_ * count));
    work_->hits.resize(std::max<size_t>(work_->hits.size(), workers_));
    for (auto& findings : work_->findings) {
      findings.best.clear();
      findings.full = false;
      findings.candidates.clear();
    }
    // The codes of each block, one after the other.
    const size_t block = variant_.block;
    block_bytes_ = (block * padded_ + 63) / 64 * 64;
    packed_.resize((count + block - 1) / block * block_bytes_ + 63);
    coded_.clear();
    std::vector<int8_t> codes(block * padded_);
    for (size_t from = 0; from < count; from += block) {
      const size_t size = std::min(block, count - from);
      for (size_t i = 0; i < size; i++) {
        const size_t at = active_[from + i]->number * padded_;
        std::copy_n(&codes_[at], padded_, &codes[i * padded_]);
        coded_.push_back(active_[from + i]->coded);
      }
      variant_.pack(codes.data(), static_cast<int>(size), padded_ / 4, Packed(from));
    }
  }

  int8_t* Packed(size_t from) {
    const auto aligned = (reinterpret_cast<uintptr_t>(packed_.data()) + 63) / 64 * 64;
    return reinterpret_cast<int8_t*>(aligned) + from / variant_.block * block_bytes_;
  }

  // Guesses thresholds from a sample of the rows, where that is worth it.
  void Guess(const std::vector<Query*>& queries) {
    const int64_t pairs = shard_.rows / kPair / kSampled;
    std::vector<Query*> guessed;
    for (Query* query : queries) {
      const double share = static_cast<double>(query->wanted) / kSampled;
      query->k = static_cast<int32_t>(share + 3 * std::sqrt(share) + 4);
      if (pairs * kPair >= 4 * int64_t{query->k}) guessed.push_back(query);
    }
    if (guessed.empty()) return;
    Begin(guessed);
    ForEach(pairs, [this](int worker, int64_t i) {
      // One of each sixteen, at a place that no regular order of the rows can follow.
      const uint64_t random = static_cast<uint64_t>(i + 1) * 0x9E3779B97F4A7C15u >> 60;
      Scan(worker, (i * kSampled + static_cast<int64_t>(random)) * kPair, kPair);
    });
    ForEach(static_cast<int64_t>(guessed.size()), [this](int, int64_t i) {
      const Findings& all = FindBest(i);
      const bool enough = static_cast<int64_t>(all.best.size()) >= active_[i]->k;
      active_[i]->threshold.store(enough ? all.best.back().score : kNone);
    });
  }

  // Whether scoring the eligible rows costs less than scanning for them, with so many queries.
  bool HasFewRows(const Query& query, size_t queries) const {
    const auto all = static_cast<double>(queries);
    const double scan = kScanCost / all + kScanMoreCost;  // of a pair, for one query
    const auto total = static_cast<double>(shard_.rows / kPair);
    int64_t rows = 0, pairs = 0;
    for (int64_t pair = 0; pair < shard_.rows / kPair; pair++) {
      rows += __builtin_popcount(query.eligible[pair]);
      pairs += query.eligible[pair] != 0;
      if (static_cast<double>(rows) >= total * scan) return false;
    }
    // Queries share the pairs that they scan; at worst, no two of them want the same pair.
    return static_cast<double>(rows) < std::min(static_cast<double>(pairs) * all, total) * scan;
  }

  // Finds the answers of some queries by scoring all of their rows.
  void ScoreAllFor(const std::vector<Query*>& queries) {
    if (queries.empty()) return;
    for (Query* query : queries) query->k = query->wanted;
    Begin(queries);
    const int64_t spans = (shard_.rows + kSpanRows - 1) / kSpanRows;
    ForEach(spans * static_cast<int64_t>(queries.size()), [=](int worker, int64_t i) {
      ScoreSpan(worker, i / spans, i % spans);
    });
    ForEach(static_cast<int64_t>(queries.size()), [this](int, int64_t i) { Finish(i); });
  }

  // Scores the eligible rows of a span, many at a time: their memory is far apart.
  void ScoreSpan(int worker, size_t i, int64_t span) {
    Query& query = *active_[i];
    Findings& findings = Of(worker, i);
    int32_t rows[kTileRows] = {};
    float scores[kTileRows];
    int64_t count = 0;
    auto score = [&] {
      variant_.score(shard_.vectors, shard_.width, rows, count, query.vector, scores);
      AddScored(findings, query, rows, scores, count);
      count = 0;
    };
    const int64_t last = std::min<int64_t>(shard_.rows, (span + 1) * kSpanRows) / kPair;
    for (int64_t pair = span * kSpanRows / kPair; pair < last; pair++) {
      for (uint32_t word = query.eligible[pair]; word != 0; word &= word - 1) {
        rows[count++] = static_cast<int32_t>(pair) * kPair + __builtin_ctz(word);
      }
      if (count + kPair > kTileRows) score();
    }
    score();
  }

  // Notes the scores of rows, and keeps the best of them.
  void AddScored(Findings& findings, Query& query, const int32_t* rows, const float* scores,
                 int64_t count) {
    const float threshold = query.threshold.load(std::memory_order_relaxed);
    for (int64_t i = 0; i < count; i++) {
      if (scores[i] < threshold) continue;
      const Scored scored = {scores[i], rows[i]};
      if (findings.full && scores[i] == findings.last.score && !Better{*this}(scored, findings.last)) {
        continue;
      }
      findings.best.push_back(scored);
    }
    if (static_cast<int64_t>(findings.best.size()) >= Limit(query.k)) KeepBest(findings, query);
  }

  // Searches for the answers of some queries; those with a bad guess are not done.
  void SearchFor(const std::vector<Query*>& queries) {
    if (queries.empty()) return;
    for (Query* query : queries) query->k = query->wanted;
    Begin(queries);
    const int64_t tiles = shard_.rows / kTileRows;
    // A step that is coprime with the number of tiles, near its golden section: early tiles are
    // spread evenly.
    auto step = std::max<int64_t>(1, static_cast<int64_t>(0.618 * static_cast<double>(tiles)));
    while (std::gcd(step, tiles) > 1) step++;
    ForEach(tiles, [=](int worker, int64_t i) {
      Scan(worker, i * step % tiles * kTileRows, kTileRows);
    });
    ForEach(static_cast<int64_t>(queries.size()), [this](int, int64_t i) { Finish(i); });
  }

  // Calls a function (worker, i) for each i below `count`, on all workers.
  template <class Function>
  void ForEach(int64_t count, Function function) {
    phoenix::ForEach(run_, workers_, count, function);
  }

  Findings& Of(int worker, size_t query) { return work_->findings[worker * active_.size() + query]; }

  // Scans some rows, whose number is a multiple of 32.
  void Scan(int worker, int64_t row, int32_t rows) {
    auto& hits = work_->hits[worker];
    if (!hits) hits = std::make_unique<Hits[]>(kMaxBlock);
    const Tile tile = {shard_.codes + row * padded_, shard_.bounds + row * 2,
                       static_cast<int32_t>(row), rows, static_cast<int32_t>(padded_ / 4)};
    float thresholds[kMaxBlock];
    const uint32_t* eligible[kMaxBlock];
    for (size_t from = 0; from < active_.size(); from += variant_.block) {
      const int count = static_cast<int>(std::min<size_t>(variant_.block, active_.size() - from));
      for (int i = 0; i < count; i++) {
        const Query& query = *active_[from + i];
        thresholds[i] = query.threshold.load(std::memory_order_relaxed);
        eligible[i] = query.eligible + row / kPair;
        hits[i].count = 0;
      }
      const QueryBlock block = {count,        from == 0,  &coded_[from],
                                Packed(from), thresholds, eligible};
      variant_.scan(tile, block, hits.get());
      for (int i = 0; i < count; i++) {
        if (hits[i].count > 0) Take(Of(worker, from + i), *active_[from + i], hits[i]);
      }
    }
  }

  void Take(Findings& findings, Query& query, const Hits& hits) {
    if (hits.count >= kManyHits && query.threshold.load(std::memory_order_relaxed) > kNone) {
      // Many rows are nearly equal, and choosing among them would not spare many scores.
      float scores[kTileRows];
      variant_.score(shard_.vectors, shard_.width, hits.rows, hits.count, query.vector, scores);
      AddScored(findings, query, hits.rows, scores, hits.count);
      return;
    }
    auto& candidates = findings.candidates;
    for (int32_t i = 0; i < hits.count; i++) candidates.push_back({hits.upper[i], hits.rows[i]});
    const int64_t limit = Limit(query.k);
    if (static_cast<int64_t>(candidates.size()) < limit) return;
    for (int64_t count = query.k; DropHopeless(findings, query) > limit / 2; count *= 4) {
      ScoreBest(findings, query, count);
    }
  }

  // Drops the candidates that are below the threshold, and returns how many remain.
  int64_t DropHopeless(Findings& findings, const Query& query) {
    const float threshold = query.threshold.load(std::memory_order_relaxed);
    auto& candidates = findings.candidates;
    candidates.erase(std::remove_if(candidates.begin(), candidates.end(),
                                    [=](const Candidate& each) { return each.upper < threshold; }),
                     candidates.end());
    return static_cast<int64_t>(candidates.size());
  }

  // Scores the `count` candidates with the largest upper bounds, or all if they are fewer.
  void ScoreBest(Findings& findings, Query& query, int64_t count) {
    auto& candidates = findings.candidates;
    const auto size = static_cast<int64_t>(candidates.size());
    count = std::min(std::max(count, kScoredAtOnce), size);
    if (count < size) {
      std::nth_element(candidates.begin(), candidates.end() - count, candidates.end(),
                       [](const Candidate& a, const Candidate& b) { return a.upper < b.upper; });
    }
    int32_t rows[kScoredAtOnce] = {};
    float scores[kScoredAtOnce];
    for (int64_t left = count; left > 0;) {
      const float threshold = query.threshold.load(std::memory_order_relaxed);
      int64_t taken = 0;
      for (; left > 0 && taken < kScoredAtOnce; left--) {
        const Candidate& candidate = candidates[size - left];
        if (candidate.upper >= threshold) rows[taken++] = candidate.row;
      }
      variant_.score(shard_.vectors, shard_.width, rows, taken, query.vector, scores);
      AddScored(findings, query, rows, scores, taken);
    }
    candidates.resize(size - count);
    KeepBest(findings, query);
  }

  uint64_t Id(int32_t row) const {
    return uint64_t{shard_.ids[2 * int64_t{row}]} << 32 | shard_.ids[2 * int64_t{row} + 1];
  }

  // Keeps the best k rows of those that are scored, the k-th last, and raises the threshold to it.
  void KeepBest(Findings& findings, Query& query) {
    auto& best = findings.best;
    const auto k = static_cast<size_t>(query.k);
    if (best.size() < k) return;
    std::nth_element(best.begin(), best.begin() + (k - 1), best.end(), Better{*this});
    best.resize(k);
    findings.full = true;
    findings.last = best.back();
    float threshold = query.threshold.load(std::memory_order_relaxed);
    while (threshold < best.back().score &&
           !query.threshold.compare_exchange_weak(threshold, best.back().score)) {
    }
  }

  struct Better {
    const TopKSearch& search;
    bool operator()(const Scored& a, const Scored& b) const {
      return a.score > b.score || (a.score == b.score && search.Id(a.row) < search.Id(b.row));
    }
  };

  // Scores what is left of a query's candidates; the k-th of its best is last.
  Findings& FindBest(size_t i) {
    Findings& all = Of(0, i);
    Query& query = *active_[i];
    for (int worker = 1; worker < workers_; worker++) {
      const Findings& other = Of(worker, i);
      all.best.insert(all.best.end(), other.best.begin(), other.best.end());
      all.candidates.insert(all.candidates.end(), other.candidates.begin(), other.candidates.end());
    }
    KeepBest(all, query);
    if (DropHopeless(all, query) > 0) {
      ScoreBest(all, query, query.k);  // the best first: they raise the threshold
      if (const int64_t left = DropHopeless(all, query)) ScoreBest(all, query, left);
    }
    return all;
  }

  // Writes the answer of a query, unless its guess was too high.
  void Finish(size_t i) {
    Query& query = *active_[i];
    auto& best = FindBest(i).best;
    const bool guessed = query.threshold.load() > kNone;
    if (guessed && static_cast<int32_t>(best.size()) < query.k) return;
    query.done = true;
    std::sort(best.begin(), best.end(), Better{*this});
    int64_t out = int64_t{query.place} * search_.k;
    for (const Scored& each : best) {
      search_.scores[out] = each.score;
      search_.rows[out++] = each.row;
    }
  }

  static constexpr int kMaxBlock = 32;

  const Variant& variant_;
  const Shard& shard_;
  const Search& search_;
  const int workers_;
  const RunTogether& run_;
  const int64_t padded_;  // bytes of a vector's codes
  std::unique_ptr<Work> work_;
  std::deque<Query> queries_;  // without padding; a deque, for a query does not move
  std::vector<int8_t> codes_, fine_codes_;

  // Of the search that has begun:
  std::vector<Query*> active_;
  std::vector<CodedQuery> coded_;
  std::vector<int8_t> packed_;
  size_t block_bytes_ = 0;
};

}  // namespace

void FindTopK(const Variant& variant, const Shard& shard, const Search& search, int workers,
              const RunTogether& run) {
  TopKSearch(variant, shard, search, workers, run).Run();
}

}  // namespace phoenix
