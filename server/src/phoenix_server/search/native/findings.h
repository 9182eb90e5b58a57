// What the workers of a search know of the answers, and the memory for it.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "scan.h"

namespace phoenix {

struct Scored {
  float score;
  int32_t row;
};

struct Candidate {
  float upper;
  int32_t row;
};

// What one worker knows of one query.
struct Findings {
  std::vector<Scored> best;          // with others that were scored since the best were chosen
  bool full;                         // whether the best k were chosen before
  Scored last;                       // the k-th of them
  std::vector<Candidate> candidates;
};

struct Work {
  std::vector<Findings> findings;    // [workers * batch]
  std::vector<std::unique_ptr<Hits[]>> hits;  // [workers], of a block of queries each
};

// Keeps the memory of a search for the next one: fresh memory costs more than the search.
class WorkPool {
 public:
  std::unique_ptr<Work> Take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (free_.empty()) return std::make_unique<Work>();
    std::unique_ptr<Work> work = std::move(free_.back());
    free_.pop_back();
    return work;
  }
  void Give(std::unique_ptr<Work> work) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(work));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Work>> free_;
};

inline WorkPool& Pool() {
  static WorkPool* const pool = new WorkPool;  // never destroyed: threads may outlive main
  return *pool;
}

}  // namespace phoenix
