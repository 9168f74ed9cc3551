// Class labels as the caller gave them: which rows count, and one look at all before anything is computed.
#pragma once

#include "problem.hpp"

struct Labels {
    Elements labels;  // of any integer dtype
    std::int64_t count = 0, classes = 0;
    bool ignores_label = false;
    std::int64_t ignored_label = 0;
    const double* class_weight = nullptr;
    PerRow<const double> row_weight;  // 0: the row does not count, and its label is not looked at
    int threads = 1;
};

struct LabelScan {
    std::int64_t wrong = -1;   // the first row that counts and whose label is no class
    std::int64_t counted = 0;  // rows that count
    double weight = 0;         // sum over them of row_weight x class_weight[label]
};

// The sums have the bits of those over the rows that count alone, for any number of threads.
LabelScan scan_labels(const Labels& labels);

// Sum of row_weight x loss over the rows of a problem that count.
double total_loss(const Problem& problem, const PerRow<const double>& row_weight);
