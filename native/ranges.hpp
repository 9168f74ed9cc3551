// Are all numbers what they must be? One read of what NumPy reads several times; who finds a wrong one says more slowly where it is.
#pragma once

#include "problem.hpp"

struct Range {
    double low = 0, high = 1;
    bool allows_nan = false;
    bool ends_only = false;  // low and high, and nothing between them
    bool ignores = false;
    double ignored = 0;  // a number that may lie outside
    int threads = 1;
};

// How many of the numbers are the ignored one; -1 where another lies outside, or for a dtype that is not read here.
std::int64_t count_ignored(const Elements& numbers, std::int64_t count, const Range& range);

// The entries at the labels (all of them classes, or ignored) of the problem's rows, one per row; 1 for an ignored label. False where
// one is outside the range, or for a dtype that is not read here.
bool gather_labelled(const Problem& problem, const Range& range, double* values);
