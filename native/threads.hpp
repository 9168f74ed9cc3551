// Loops over threads: those of a pool that was lent, else of threads that are started for one call and joined before it returns.
// Nothing to configure, and no second OpenMP runtime beside PyTorch's. A fork leaves a pool without its threads: the child starts
// its own again.
#pragma once

#include <cstdint>
#include <functional>

// body(index, worker) for every index in [0, count), in no fixed order; worker < workers. `body` must not throw. It computes in the
// caller's floating-point environment (rounding, denormal numbers), whoever's the threads are.
void parallel_for(std::int64_t count, int workers, const std::function<void(std::int64_t index, int worker)>& body);

// Threads that wait for work, of OpenMP: `parallel` returns when all of them (threads = 0), the caller's among them, have returned
// from task(data), GOMP_parallel; `size` says how many that are for the thread that asks, omp_get_max_threads.
struct Pool {
    void (*parallel)(void (*task)(void*), void* data, unsigned threads, unsigned flags) = nullptr;
    int (*size)() = nullptr;
};
// To the loops of this thread alone: OpenMP has a team for every thread that asks, and where teams have more threads than there are
// cores, none of them waits awake any more.
void lend_pool(Pool pool);

// How many threads a loop of this thread can have without a start; 0 without a pool.
int waiting_threads();
