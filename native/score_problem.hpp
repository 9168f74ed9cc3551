// Rows of predictions and their labels: what crosses from Python, and what comes back.
#pragma once

#include "problem.hpp"

// What the numbers of a row are.
enum class Inputs : std::int32_t { probs, log_probs, logits };

// The loss at 9 temperatures T, 1 / T in factors of 2, and its first two derivatives by log(1 / T), for rows in 5 folds.
constexpr int temperatures = 9, folds = 5;

struct ScoreProblem {
    std::int64_t rows = 0, classes = 0;
    Matrix values;  // (rows, classes): outer_stride steps over rows; inner_stride unused
    Inputs inputs = Inputs::probs;
    const std::int64_t* labels = nullptr;
    const double* weights = nullptr;  // absent: 1 each

    // Results per row; those that are absent are not written.
    double *loss = nullptr, *entropy = nullptr, *label_probability = nullptr, *prediction_probability = nullptr, *row_sum = nullptr;
    std::int64_t* prediction = nullptr;  // -1: no class is possible

    // Results per block of rows, to be added up; absent ones are not computed. Rows of infinite loss are left out.
    // Of a block and a fold: the weight, the weighted losses at each temperature, their first and second derivatives.
    double* by_temperature = nullptr;
    // Of a block: w (loss - entropy), w^2 times the variance of -log p under the row's own p.
    double* gap = nullptr;
    double inverse_temperature[temperatures] = {};  // each twice the one before

    int threads = 1;
};
constexpr std::int64_t sums_per_fold = 1 + 3 * temperatures;

// One per instruction set. `memory` holds `bytes(classes)`, aligned to 64 bytes.
struct ScoreKernel {
    std::int64_t block_rows;
    std::int64_t (*bytes)(std::int64_t classes);
    void (*blocks)(const ScoreProblem&, std::int64_t first, std::int64_t end, void* memory);
};
