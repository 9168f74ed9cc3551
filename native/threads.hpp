// Loops over threads that are started for one call and joined before it returns: nothing to configure, safe after fork, and no
// second OpenMP runtime beside PyTorch's.
#pragma once

#include <cstdint>
#include <functional>

// body(index, worker) for every index in [0, count), in no fixed order; worker < workers. `body` must not throw.
void parallel_for(std::int64_t count, int workers, const std::function<void(std::int64_t index, int worker)>& body);
