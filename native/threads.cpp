#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

void parallel_for(std::int64_t count, int workers, const std::function<void(std::int64_t index, int worker)>& body) {
    std::atomic<std::int64_t> next{0};
    // A few indices at a time: many cheap ones share a fetch, and the last ones still spread.
    std::int64_t step = std::max<std::int64_t>(1, count / (std::int64_t(workers) * 16));
    auto work = [&](int worker) {
        for (std::int64_t first; (first = next.fetch_add(step)) < count;)
            for (std::int64_t i = first, end = std::min(count, first + step); i < end; ++i) body(i, worker);
    };
    std::vector<std::thread> others;
    others.reserve(workers - 1);
    try {
        for (int worker = 1; worker < workers; ++worker) others.emplace_back(work, worker);
    } catch (const std::system_error&) {
        // No more threads to be had: those that started and this one do the work.
    }
    work(0);
    for (std::thread& thread : others) thread.join();
}
