// Work that threads share. One that works alone asks nothing of OpenMP: it may be a member of another team meanwhile.

#pragma once

#include <omp.h>

namespace {

// One of the threads that do a piece of work together.
struct Worker {
  int number, count;

  // Until all of them have come here.
  void wait() const {
    if (count == 1) return;
#pragma omp barrier
  }

  // Calls with each number of its share of [0, all), ascending.
  template <class Act>
  void each(long all, const Act& act) const {
    const long end = all * (number + 1) / count;
    for (long i = all * number / count; i < end; i++) act(i);
  }
};

template <class Work>
void by_workers(int threads, const Work& work) {
  if (threads == 1) return work(Worker{0, 1});
#pragma omp parallel num_threads(threads)
  work(Worker{omp_get_thread_num(), omp_get_num_threads()});
}

// Calls with each number of [0, all).
template <class Act>
void in_parallel(long all, int threads, const Act& act) {
  by_workers(threads, [&](const Worker& worker) { worker.each(all, act); });
}

}  // namespace
