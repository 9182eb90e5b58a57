// XLA's custom calls of the native search, and what Python asks of the library.
//
// Shapes:
//     P  rows of the shard         D  width of a vector     J  D / 4, rounded up
//     B  queries                   K  results               n  rows that are written
#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>

#include "float_mode.h"
#include "for_each.h"
#include "scan.h"
#include "top_k.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace phoenix {
namespace {

// The calls of a function on several threads. XLA's pool may run a task late: by then the caller
// may have done all work itself and gone on, so it waits only for the calls that have begun.
struct Team {
  std::mutex mutex;
  std::condition_variable ended;
  const std::function<void(int)>* function;
  int begun = 1;  // the caller's
  int active = 0;
  bool closed = false;
  std::exception_ptr error;

  void Help() {
    int worker;
    {
      const std::lock_guard<std::mutex> lock(mutex);
      if (closed) return;
      worker = begun++;
      active++;
    }
    Call(worker);
    const std::lock_guard<std::mutex> lock(mutex);
    if (--active == 0) ended.notify_one();
  }

  void Call(int worker) {
    const IeeeFloats floats;
    try {
      (*function)(worker);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      error = std::current_exception();
    }
  }
};

void RunOn(ffi::ThreadPool& pool, int workers, const std::function<void(int)>& function) {
  if (workers <= 1) return function(0);
  auto team = std::make_shared<Team>();
  team->function = &function;
  for (int i = 1; i < workers; i++) pool.Schedule([team] { team->Help(); });
  team->Call(0);
  std::unique_lock<std::mutex> lock(team->mutex);
  team->closed = true;
  team->ended.wait(lock, [&] { return team->active == 0; });
  if (team->error) std::rethrow_exception(team->error);
}

int Workers(const ffi::ThreadPool& pool) {
  const int64_t threads = pool.num_threads();
  return static_cast<int>(threads < 1 ? 1 : threads);
}

RunTogether Runner(ffi::ThreadPool& pool) {
  return [&pool](int workers, const std::function<void(int)>& function) {
    RunOn(pool, workers, function);
  };
}

// Calls a function (first, count) for each tile of some rows.
template <class Function>
void ForEachTile(ffi::ThreadPool& pool, int64_t rows, Function function) {
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  ForEach(Runner(pool), Workers(pool), tiles, [&](int, int64_t tile) {
    const int64_t first = tile * kTileRows;
    function(first, std::min<int64_t>(kTileRows, rows - first));
  });
}

template <class Body>
ffi::Error Guarded(Body body) {
  const IeeeFloats floats;
  try {
    body();
  } catch (const std::exception& error) {
    return ffi::Error(ffi::ErrorCode::kInternal, error.what());
  }
  return ffi::Error::Success();
}

// Returns a variant that this CPU can run for vectors of a width.
const Variant& VariantFor(std::string_view name, int64_t width) {
  int count;
  const Variant* const* variants = Variants(&count);
  for (int i = 0; i < count; i++) {
    if (variants[i]->name == name && variants[i]->available(Quads(width))) return *variants[i];
  }
  throw std::runtime_error("this CPU cannot run the native search as " + std::string(name));
}

ffi::Error TopK(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> vectors, ffi::Buffer<ffi::U32> ids,
                ffi::Buffer<ffi::U8> codes, ffi::Buffer<ffi::F32> bounds,
                ffi::Buffer<ffi::F32> longest, ffi::Buffer<ffi::S32> tiles,
                ffi::Buffer<ffi::U32> eligible, ffi::Buffer<ffi::F32> queries,
                ffi::Buffer<ffi::S32> wanted, ffi::ResultBuffer<ffi::F32> scores,
                ffi::ResultBuffer<ffi::S32> rows, int64_t tile_rows, std::string_view variant) {
  return Guarded([&] {
    const auto batch = queries.dimensions()[0];
    const Shard shard = {vectors.typed_data(),
                         ids.typed_data(),
                         codes.typed_data(),
                         bounds.typed_data(),
                         longest.typed_data()[0],
                         vectors.dimensions()[1],
                         static_cast<int32_t>(tiles.typed_data()[0] * tile_rows)};
    const Search search = {queries.typed_data(),
                           wanted.typed_data(),
                           static_cast<int32_t>(batch),
                           static_cast<int32_t>(scores->dimensions()[1]),
                           eligible.typed_data(),
                           eligible.dimensions()[0] > 1 ? eligible.dimensions()[1] : 0,
                           scores->typed_data(),
                           rows->typed_data()};
    FindTopK(VariantFor(variant, shard.width), shard, search, Workers(pool), Runner(pool));
  });
}

ffi::Error Scores(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> vectors,
                  ffi::Buffer<ffi::U32> eligible, ffi::Buffer<ffi::F32> query,
                  ffi::ResultBuffer<ffi::F32> scores, std::string_view variant) {
  return Guarded([&] {
    const int64_t rows = vectors.dimensions()[0], width = vectors.dimensions()[1];
    const Variant& chosen = VariantFor(variant, width);
    ForEachTile(pool, rows, [&](int64_t first, int64_t count) {
      int32_t numbers[kTileRows];
      for (int64_t i = 0; i < count; i++) numbers[i] = static_cast<int32_t>(first + i);
      float* out = scores->typed_data() + first;
      chosen.score(vectors.typed_data(), width, numbers, count, query.typed_data(), out);
      for (int64_t i = 0; i < count; i++) {
        const uint32_t word = eligible.typed_data()[(first + i) / kPair];
        if ((word >> ((first + i) % kPair) & 1) == 0) out[i] = -INFINITY;
      }
    });
  });
}

// Where the codes and bounds of a row lie.
struct RowPlace {
  RowPlace(uint8_t* codes, float* bounds, int64_t row, int64_t width)
      : lane(static_cast<int>(row % kGroup)),
        codes(codes + row / kGroup * Quads(width) * 64),
        bounds(bounds + row / kGroup * 2 * kGroup) {}
  int lane;
  uint8_t* codes;
  float* bounds;
};

ffi::Error Encode(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> vectors,
                  ffi::ResultBuffer<ffi::U8> codes, ffi::ResultBuffer<ffi::F32> bounds,
                  std::string_view variant) {
  return Guarded([&] {
    const int64_t rows = vectors.dimensions()[0], width = vectors.dimensions()[1];
    const Variant& chosen = VariantFor(variant, width);
    ForEachTile(pool, rows, [&](int64_t first, int64_t count) {
      for (int64_t row = first; row < first + count; row++) {
        const RowPlace place(codes->typed_data(), bounds->typed_data(), row, width);
        chosen.encode(vectors.typed_data() + row * width, width, place.lane, place.codes,
                      place.bounds);
      }
    });
  });
}

// Writes rows in place: the results are the first three arguments. Rows beyond the shard are
// padding.
ffi::Error Write(ffi::Buffer<ffi::F32>, ffi::Buffer<ffi::U8>, ffi::Buffer<ffi::F32>,
                 ffi::Buffer<ffi::S32> rows, ffi::Buffer<ffi::F32> written,
                 ffi::ResultBuffer<ffi::F32> vectors, ffi::ResultBuffer<ffi::U8> codes,
                 ffi::ResultBuffer<ffi::F32> bounds, std::string_view variant) {
  return Guarded([&] {
    const int64_t total = vectors->dimensions()[0], width = vectors->dimensions()[1];
    const int64_t count = rows.dimensions()[0];
    const Variant& chosen = VariantFor(variant, width);
    for (int64_t i = 0; i < count; i++) {
      const int64_t row = rows.typed_data()[i];
      if (row < 0 || row >= total) continue;
      const float* from = written.typed_data() + i * width;
      std::copy_n(from, width, vectors->typed_data() + row * width);
      const RowPlace place(codes->typed_data(), bounds->typed_data(), row, width);
      chosen.encode(from, width, place.lane, place.codes, place.bounds);
    }
  });
}

}  // namespace
}  // namespace phoenix

#define PHOENIX_EXPORT extern "C" __attribute__((visibility("default")))

PHOENIX_EXPORT XLA_FFI_Error* phoenix_top_k(XLA_FFI_CallFrame*);
PHOENIX_EXPORT XLA_FFI_Error* phoenix_scores(XLA_FFI_CallFrame*);
PHOENIX_EXPORT XLA_FFI_Error* phoenix_encode(XLA_FFI_CallFrame*);
PHOENIX_EXPORT XLA_FFI_Error* phoenix_write(XLA_FFI_CallFrame*);

XLA_FFI_DEFINE_HANDLER_SYMBOL(phoenix_top_k, phoenix::TopK,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Arg<ffi::Buffer<ffi::U8>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::S32>>()
                                  .Attr<int64_t>("tile_rows")
                                  .Attr<std::string_view>("variant"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(phoenix_scores, phoenix::Scores,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<std::string_view>("variant"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(phoenix_encode, phoenix::Encode,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::U8>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<std::string_view>("variant"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(phoenix_write, phoenix::Write,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::U8>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::U8>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<std::string_view>("variant"));

// Returns the name of a variant that this CPU can run for vectors of a width, the fastest first;
// null beyond the last.
PHOENIX_EXPORT const char* phoenix_variant(int64_t number, int64_t width) {
  int count;
  const phoenix::Variant* const* variants = phoenix::Variants(&count);
  for (int i = 0; i < count; i++) {
    if (variants[i]->available(phoenix::Quads(width)) && number-- == 0) return variants[i]->name;
  }
  return nullptr;
}
