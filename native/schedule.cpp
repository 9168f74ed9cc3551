#include "schedule.hpp"

#include <algorithm>
#include <memory>
#include <new>
#include <stdexcept>
#include <thread>

#include "threads.hpp"

#if defined(__linux__)
#include <sched.h>
#endif

namespace baseline { extern const RowKernel row_kernel; extern const ElementKernel element_kernel; extern const ScoreKernel score_kernel; }
#if defined(HAS_X86_KERNELS)
namespace avx2 { extern const RowKernel row_kernel; extern const ElementKernel element_kernel; extern const ScoreKernel score_kernel; }
namespace avx512 { extern const RowKernel row_kernel; extern const ElementKernel element_kernel; extern const ScoreKernel score_kernel; }
#endif

namespace {

struct InstructionSet {
    const char* name;
    const RowKernel* rows;
    const ElementKernel* elements;
    const ScoreKernel* scores;
    bool (*is_here)();
};

const InstructionSet all_sets[] = {
#if defined(HAS_X86_KERNELS)
    {"avx512", &avx512::row_kernel, &avx512::element_kernel, &avx512::score_kernel,
     [] { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"); }},
    {"avx2", &avx2::row_kernel, &avx2::element_kernel, &avx2::score_kernel, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); }},
#endif
    {"baseline", &baseline::row_kernel, &baseline::element_kernel, &baseline::score_kernel, [] { return true; }},
};

const InstructionSet& choose(const std::string& name) {
    for (const InstructionSet& set : all_sets)
        if ((name.empty() || name == set.name) && set.is_here()) return set;
    throw std::invalid_argument("instruction set '" + name + "' is not in this build or not on this machine");
}

constexpr std::int64_t alignment = 64;
struct Free { void operator()(char* memory) const { ::operator delete(memory, std::align_val_t(alignment)); } };
using Memory = std::unique_ptr<char, Free>;
std::int64_t aligned(std::int64_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }
Memory allocate(std::int64_t bytes) { return Memory(static_cast<char*>(::operator new(aligned(bytes), std::align_val_t(alignment)))); }

// What a thread must have to do, in nanoseconds: several times what it takes to start one, or to wake one that waits.
constexpr double worth_a_start = 250e3, worth_waking = 30e3;

// Roughly what one thread needs; it only decides how many threads are worth their start.
double nanoseconds(const Problem& p) {
    bool in_double = p.logits.dtype == DType::float64 || p.softcap != 0 || p.class_bias || p.are_probabilities;
    double per_element = p.has_softmax ? (in_double ? 2 : 0.5) : 0.2;
    if (p.softcap != 0) per_element += 4;
    if (p.smoothing != 0) per_element += 0.3;
    if (p.dense.data) per_element += 0.5;
    if (p.gradient.data) per_element += 0.5;
    if (p.reads_target_only()) per_element = 0.2;
    bool reads_labels_only = !p.has_softmax && !p.dense.data && p.smoothing == 0 && !p.gradient.data;
    return double(p.rows) * (10 + (reads_labels_only ? 0 : per_element * double(p.classes)));
}
double nanoseconds(const ElementProblem& p) {
    return double(p.count) * (p.in_double() ? 6 : 1.5);
}

int cores() {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
    return std::max(1, int(std::thread::hardware_concurrency()));
}

}  // namespace

int workers_for(double nanoseconds, int threads, std::int64_t pieces) {
    std::int64_t most = std::min<std::int64_t>(pieces, threads > 0 ? threads : cores());
    std::int64_t started = std::min(std::int64_t(nanoseconds / worth_a_start), most);
    std::int64_t woken = std::min({std::int64_t(nanoseconds / worth_waking), most, std::int64_t(waiting_threads())});
    return int(std::max<std::int64_t>({1, started, woken}));
}

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const InstructionSet& set : all_sets)
        if (set.is_here()) names.push_back(set.name);
    return names;
}

void compute_rows(const Problem& p, const std::string& instruction_set) {
    const RowKernel& kernel = *choose(instruction_set).rows;
    if (p.rows == 0) return;
    Plan plan = kernel.plan(p);
    int workers = workers_for(nanoseconds(p), p.threads, plan.groups * plan.parts);
    std::int64_t workspace_bytes = aligned(plan.workspace_bytes), group_bytes = aligned(plan.group_bytes), part_bytes = aligned(plan.part_bytes);
    Memory workspaces = allocate(workers * workspace_bytes);
    auto workspace = [&](int worker) { return workspaces.get() + worker * workspace_bytes; };

    if (plan.parts == 1) {
        Memory groups = allocate(workers * group_bytes);
        // Several groups at a time, for the sake of the call; still many pieces per thread.
        std::int64_t step = std::max<std::int64_t>(1, std::min<std::int64_t>(64, plan.groups / (workers * 16)));
        parallel_for((plan.groups + step - 1) / step, workers, [&](std::int64_t i, int worker) {
            kernel.whole(p, i * step, std::min(plan.groups, (i + 1) * step), workspace(worker), groups.get() + worker * group_bytes);
        });
        return;
    }
    // A group's steps, each over its parts by `for_parts`.
    auto steps = [&](std::int64_t g, char* group, char* states, int worker, auto for_parts) {
        kernel.start(p, g, workspace(worker), group);
        if (!p.given)
            for_parts(plan.parts, [&](std::int64_t i, int who) { kernel.part_statistics(p, g, i, workspace(who), group, states + i * part_bytes); });
        kernel.finish(p, g, p.given ? 0 : plan.parts, workspace(worker), group, states);
        if (p.gradient.data) for_parts(plan.parts, [&](std::int64_t i, int who) { kernel.part_gradient(p, g, i, workspace(who), group); });
    };
    if (plan.groups >= 2 * workers) {  // enough groups: each stays on one thread and in its cache
        Memory groups = allocate(workers * group_bytes), parts = allocate(workers * plan.parts * part_bytes);
        parallel_for(plan.groups, workers, [&](std::int64_t g, int worker) {
            steps(g, groups.get() + worker * group_bytes, parts.get() + worker * plan.parts * part_bytes, worker,
                  [&](std::int64_t count, auto body) { for (std::int64_t i = 0; i < count; ++i) body(i, worker); });
        });
    } else {  // few groups: the parts of each spread over the threads
        Memory group = allocate(group_bytes), parts = allocate(plan.parts * part_bytes);
        for (std::int64_t g = 0; g < plan.groups; ++g)
            steps(g, group.get(), parts.get(), 0, [&](std::int64_t count, auto body) { parallel_for(count, workers, body); });
    }
}

std::int64_t element_blocks(std::int64_t count) {
    std::int64_t size = baseline::element_kernel.block_elements;
    return (count + size - 1) / size;
}

void compute_elements(const ElementProblem& p, const std::string& instruction_set) {
    const ElementKernel& kernel = *choose(instruction_set).elements;
    std::int64_t blocks = element_blocks(p.count), step = 16;
    int workers = workers_for(nanoseconds(p), p.threads, blocks);
    parallel_for((blocks + step - 1) / step, workers,
                 [&](std::int64_t i, int) { kernel.blocks(p, i * step, std::min(blocks, (i + 1) * step)); });
}

std::int64_t score_blocks(std::int64_t rows) {
    std::int64_t size = baseline::score_kernel.block_rows;
    return (rows + size - 1) / size;
}

void compute_scores(const ScoreProblem& p, const std::string& instruction_set) {
    const ScoreKernel& kernel = *choose(instruction_set).scores;
    std::int64_t blocks = score_blocks(p.rows), bytes = aligned(kernel.bytes(p.classes));
    // A row costs about as much per class as 16 elements of a loss.
    // Every row is taken at several temperatures.
    int workers = workers_for(10.0 * double(p.rows) * double(p.classes), p.threads, blocks);
    Memory memory = allocate(workers * bytes);
    parallel_for(blocks, workers, [&](std::int64_t i, int worker) { kernel.blocks(p, i, i + 1, memory.get() + worker * bytes); });
}
