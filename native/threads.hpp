// Loops over threads: those of a pool that was lent, else of threads that are started for one call and joined before it returns.
// Nothing to configure, and no second OpenMP runtime beside PyTorch's. A fork leaves a pool without its threads: the child starts
// its own again.
#pragma once

#include <cstdint>
#include <functional>

// body(index, worker) for every index in [0, count), in no fixed order; worker < workers. `body` must not throw. It computes in the
// caller's floating-point environment (rounding, denormal numbers), whoever's the threads are.
void parallel_for(std::int64_t count, int workers, const std::function<void(std::int64_t index, int worker)>& body);

// Returns when `threads` threads (0: all of the pool's), the caller's among them, have returned from task(data): GOMP_parallel.
using Pool = void (*)(void (*task)(void*), void* data, unsigned threads, unsigned flags);
// To the loops of this thread alone: OpenMP has a team for every thread that asks, and where teams have more threads than there are
// cores, none of them waits awake any more.
void lend_pool(Pool pool);

// What a thread must have to do, in nanoseconds: several times what it takes to start it, or to wake it.
double worth_a_thread();
