// A sum of numbers that come one by one: in blocks, whose sums are added in pairs. The rounding error grows with the logarithm of
// their number, and the bits depend on the numbers and their order alone.
#pragma once

#include <cstdint>

class RunningSum {
public:
    static constexpr int block = 512;

private:
    static constexpr int lanes = 8;
    double values[block], levels[48];
    int filled = 0;
    std::int64_t blocks = 0;

public:
    // At most `block` numbers.
    static double sum_of(const double* from, int count) {
        double lane[lanes] = {};
        int i = 0;
        for (; i + lanes <= count; i += lanes)
            for (int l = 0; l < lanes; ++l) lane[l] += from[i + l];
        for (int l = 0; i + l < count; ++l) lane[l] += from[i + l];
        return ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
    }

private:
    void flush(const double* from) {
        double total = sum_of(from, block);
        int level = 0;  // like a binary counter: level l holds the sum of 2^l blocks
        for (std::int64_t n = blocks; n & 1; n >>= 1) total = levels[level++] + total;
        levels[level] = total;
        ++blocks;
    }

public:
    void add(double value) { add_if(true, value); }
    // Without a branch: which rows count is hard to foresee.
    void add_if(bool counts, double value) {
        values[filled] = value;
        filled += counts;
        if (filled == block) flush(values), filled = 0;
    }
    void add_all(const double* from, std::int64_t count) {
        while (count && filled) add(*from++), --count;
        for (; count >= block; from += block, count -= block) flush(from);
        while (count--) add(*from++);
    }
    double result() const {
        double total = sum_of(values, filled);
        int level = 0;
        for (std::int64_t n = blocks; n; n >>= 1, ++level)
            if (n & 1) total = levels[level] + total;
        return total;
    }
};
