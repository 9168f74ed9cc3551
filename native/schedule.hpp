// Which instruction set computes, and which thread computes what.
#pragma once

#include <string>
#include <vector>

#include "problem.hpp"
#include "score_problem.hpp"

// The instruction sets of this build that this machine has, best first.
std::vector<std::string> instruction_sets();

// How many of `threads` threads (0: one for every core that this process may use) are worth their start, for work in so many pieces
// that takes one of them so many nanoseconds.
int workers_for(double nanoseconds, int threads, std::int64_t pieces);

// Compute `problem` with the named instruction set ("" for the best). Throws std::invalid_argument for an unknown one and
// std::bad_alloc before any work is done.
void compute_rows(const Problem& problem, const std::string& instruction_set);

// The sigmoid loss; `problem.sums` must hold element_blocks(count) numbers.
void compute_elements(const ElementProblem& problem, const std::string& instruction_set);
std::int64_t element_blocks(std::int64_t count);

// Rows of predictions against their labels; the results per block hold score_blocks(rows) of them.
void compute_scores(const ScoreProblem& problem, const std::string& instruction_set);
std::int64_t score_blocks(std::int64_t rows);
