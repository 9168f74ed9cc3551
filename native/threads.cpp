#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "environment.hpp"

#if defined(__linux__)
#include <pthread.h>
#endif

namespace {

thread_local Pool lent;

template <class Work>
void in_pool(const Pool& pool, int workers, const Work& work) {
    struct Shared {
        const Work& work;
        int workers;
        std::fenv_t environment;
        std::atomic<int> arrived{0};
    } shared{work, workers};
    std::fegetenv(&shared.environment);
    // 0: all of its threads, as PyTorch does. It ends those that a smaller team has not, and starts them again for the next.
    pool.parallel([](void* data) {
        Shared& given = *static_cast<Shared*>(data);
        int worker = given.arrived.fetch_add(1);
        if (worker >= given.workers) return;
        Environment callers(&given.environment);  // threads that are started have it from who starts them
        given.work(worker);
    }, &shared, 0, 0);
}

template <class Work>
void in_own_threads(int workers, const Work& work) {
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

}  // namespace

void parallel_for(std::int64_t count, int workers, const std::function<void(std::int64_t index, int worker)>& body) {
    std::atomic<std::int64_t> next{0};
    // A few indices at a time: many cheap ones share a fetch, and the last ones still spread.
    std::int64_t step = std::max<std::int64_t>(1, count / (std::int64_t(workers) * 16));
    auto work = [&](int worker) {
        for (std::int64_t first; (first = next.fetch_add(step)) < count;)
            for (std::int64_t i = first, end = std::min(count, first + step); i < end; ++i) body(i, worker);
    };
    if (workers <= 1)
        work(0);
    else if (waiting_threads() >= workers)
        in_pool(lent, workers, work);
    else
        in_own_threads(workers, work);
}

void lend_pool(Pool pool) {
#if defined(__linux__)
    static std::once_flag once;
    std::call_once(once, [] { pthread_atfork(nullptr, nullptr, [] { lent = Pool(); }); });
    lent = pool;
#endif
}

int waiting_threads() { return lent.parallel ? lent.size() : 0; }
