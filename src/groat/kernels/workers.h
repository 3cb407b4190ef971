// Work that threads share. One that works alone asks nothing of OpenMP: it may be a member of another team meanwhile.

#pragma once

#include <omp.h>

#include <atomic>
#include <thread>

// Where the members of a team wait for one another, a few hundred times in a decode step: without asking the system.
class Meeting {
 public:
  void wait(int members) {
    const int before = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == members) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(before + 1, std::memory_order_release);
      return;
    }
    for (int tries = 0; round_.load(std::memory_order_acquire) == before; tries++)
      if (tries > PATIENCE) std::this_thread::yield();  // somebody has lost its core
  }

 private:
  static constexpr int PATIENCE = 10000;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> round_{0};
};

// One of the threads that do a piece of work together.
struct Worker {
  int number, count;
  Meeting* meeting;

  // Until all of them have come here.
  void wait() const {
    if (count > 1) meeting->wait(count);
  }

  // Its share of [0, all).
  long begin(long all) const { return all * number / count; }
  long end(long all) const { return all * (number + 1) / count; }

  // Calls with each number of its share, ascending.
  template <class Act>
  void each(long all, const Act& act) const {
    for (long i = begin(all); i < end(all); i++) act(i);
  }
};

// The same for all files: what a thread is while all members of its team go through the same calls, and so share the work of each of them.
inline const Worker*& member() {
  thread_local const Worker* current = nullptr;
  return current;
}

template <class Work>
void by_workers(int threads, const Work& work) {
  if (const Worker* worker = member()) {
    work(*worker);
    return worker->wait();
  }
  if (threads == 1) return work(Worker{0, 1, nullptr});
  Meeting meeting;
#pragma omp parallel num_threads(threads)
  work(Worker{omp_get_thread_num(), omp_get_num_threads(), &meeting});
}

// Calls with each number of [0, all).
template <class Act>
void in_parallel(long all, int threads, const Act& act) {
  by_workers(threads, [&](const Worker& worker) { worker.each(all, act); });
}

// All threads go through `calls`, whatever these have shared by `by_workers`: one meeting after each, no team is made anew.
template <class Calls>
void as_a_team(int threads, const Calls& calls) {
  by_workers(threads, [&](const Worker& worker) {
    member() = &worker;
    calls();
    member() = nullptr;
  });
}
