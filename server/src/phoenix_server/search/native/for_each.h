// Work in parts, on several threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>

namespace phoenix {

// Runs a function on several threads at once, one of them the caller's, and returns when all calls
// have ended. The function takes the number of its worker, below the number given.
using RunTogether = std::function<void(int workers, const std::function<void(int)>&)>;

// Calls a function (worker, i) for each i below `count`, on at most so many workers.
template <class Function>
void ForEach(const RunTogether& run, int workers, int64_t count, Function function) {
  std::atomic<int64_t> next{0};
  run(static_cast<int>(std::clamp<int64_t>(count, 1, workers)), [&](int worker) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
      function(worker, i);
    }
  });
}

}  // namespace phoenix
