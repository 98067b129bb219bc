// Threads that run one function together and meet at barriers. Shape letters of all files: see model.cpp.
#pragma once
#include <atomic>
#include <functional>
#include <immintrin.h>
#include <sched.h>
#include <thread>
#include <vector>

class Pool {
 public:
  explicit Pool(int threads) : count_(threads < 1 ? 1 : threads) {
    for (int t = 1; t < count_; t++) threads_.emplace_back([this, t] { work(t); });
  }

  ~Pool() {
    job_ = nullptr;
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    for (auto& thread : threads_) thread.join();
  }

  int count() const { return count_; }

  // f(thread) on every thread; returns when all are done. One caller at a time.
  void run(const std::function<void(int)>& f) {
    job_ = &f;
    done_.store(0, std::memory_order_relaxed);
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    f(0);
    pause_until([&] { return done_.load(std::memory_order_acquire) == count_ - 1; });
  }

  // Every thread of a run has to come here before any goes on.
  void barrier() {
    if (count_ == 1) return;
    const int phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == count_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
    } else {
      pause_until([&] { return phase_.load(std::memory_order_acquire) != phase; });
    }
  }

 private:
  template <class Ready>
  static void pause_until(const Ready& ready) {
    // A thread that waits long has lost its neighbour to another process: it gives its core away.
    for (int spins = 0; !ready(); spins++) spins < 4096 ? _mm_pause() : (void)sched_yield();
  }

  void work(int thread) {
    unsigned seen = 0;
    for (;;) {
      for (int spins = 0; spins < 2048 && round_.load(std::memory_order_acquire) == seen; spins++) _mm_pause();
      round_.wait(seen, std::memory_order_acquire);
      seen = round_.load(std::memory_order_acquire);
      if (job_ == nullptr) return;
      (*job_)(thread);
      done_.fetch_add(1, std::memory_order_release);
    }
  }

  int count_;
  std::vector<std::thread> threads_;
  const std::function<void(int)>* job_ = nullptr;
  alignas(64) std::atomic<unsigned> round_{0};
  alignas(64) std::atomic<int> done_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> phase_{0};
};

// [first, last) of `items` for one of `threads`, in steps of `step`.
struct Share {
  int first, last;
  Share(int items, int thread, int threads, int step = 1) {
    const int steps = (items + step - 1) / step;
    first = std::min(items, steps * thread / threads * step);
    last = std::min(items, steps * (thread + 1) / threads * step);
  }
};
