#include "schedule.hpp"

#include <memory>
#include <new>
#include <stdexcept>

#include "threads.hpp"

namespace baseline { extern const RowKernel row_kernel; }
#if defined(HAS_X86_KERNELS)
namespace avx2 { extern const RowKernel row_kernel; }
namespace avx512 { extern const RowKernel row_kernel; }
#endif

namespace {

struct InstructionSet {
    const char* name;
    const RowKernel* rows;
    bool (*is_here)();
};

const InstructionSet all_sets[] = {
#if defined(HAS_X86_KERNELS)
    {"avx512", &avx512::row_kernel,
     [] { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"); }},
    {"avx2", &avx2::row_kernel, [] { return bool(__builtin_cpu_supports("avx2")); }},
#endif
    {"baseline", &baseline::row_kernel, [] { return true; }},
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

// Elements that keep a thread busy several times longer than it takes to start one (about 0.03 ms).
constexpr std::int64_t grain = 1 << 18;

}  // namespace

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
    std::int64_t pieces = plan.groups * plan.parts;
    int workers = int(std::min<std::int64_t>({std::max(1, p.threads), std::max<std::int64_t>(1, p.rows * p.classes / grain), pieces}));
    std::int64_t workspace_bytes = aligned(plan.workspace_bytes), group_bytes = aligned(plan.group_bytes), part_bytes = aligned(plan.part_bytes);
    Memory workspaces = allocate(workers * workspace_bytes);
    auto workspace = [&](int worker) { return workspaces.get() + worker * workspace_bytes; };

    if (plan.groups >= 2 * workers) {  // enough groups: each stays on one thread and in its cache
        Memory groups = allocate(workers * group_bytes), parts = allocate(workers * plan.parts * part_bytes);
        parallel_for(plan.groups, workers, [&](std::int64_t g, int worker) {
            char* group = groups.get() + worker * group_bytes;
            if (plan.parts == 1) return kernel.whole(p, g, workspace(worker), group);
            char* states = parts.get() + worker * plan.parts * part_bytes;
            kernel.merge(p, g, 0, group, states);
            if (!p.given)
                for (std::int64_t i = 0; i < plan.parts; ++i) kernel.part_statistics(p, g, i, workspace(worker), group, states + i * part_bytes);
            kernel.merge(p, g, plan.parts, group, states);
            for (std::int64_t i = 0; i < plan.parts; ++i) kernel.part_gradient(p, g, i, workspace(worker), group);
        });
        return;
    }
    // Few groups: the parts of their classes spread over the threads.
    Memory groups = allocate(plan.groups * group_bytes), parts = allocate(pieces * part_bytes);
    auto group = [&](std::int64_t g) { return groups.get() + g * group_bytes; };
    auto states = [&](std::int64_t g) { return parts.get() + g * plan.parts * part_bytes; };
    if (plan.parts == 1) {
        parallel_for(plan.groups, workers, [&](std::int64_t g, int worker) { kernel.whole(p, g, workspace(worker), group(g)); });
        return;
    }
    for (std::int64_t g = 0; g < plan.groups; ++g) kernel.merge(p, g, 0, group(g), nullptr);
    if (!p.given)
        parallel_for(pieces, workers, [&](std::int64_t i, int worker) {
            std::int64_t g = i / plan.parts, part = i % plan.parts;
            kernel.part_statistics(p, g, part, workspace(worker), group(g), states(g) + part * part_bytes);
        });
    for (std::int64_t g = 0; g < plan.groups; ++g) kernel.merge(p, g, plan.parts, group(g), states(g));
    if (p.gradient.data)
        parallel_for(pieces, workers, [&](std::int64_t i, int worker) {
            kernel.part_gradient(p, i / plan.parts, i % plan.parts, workspace(worker), group(i / plan.parts));
        });
}
