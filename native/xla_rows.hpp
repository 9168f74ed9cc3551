// The core as a custom call of programs that XLA compiles for the CPU.
#pragma once

#include "xla_ffi.hpp"

// Arguments, whose names in their order are the attribute "given": logits (outer, classes, inner), class_bias (classes,), class_mask
// (classes,) or (rows, classes), indices (rows, K), index_weight (1, 1) or (rows, K), dense (rows, classes), class_weight (classes,),
// target_sum () or (rows,), valid (rows,), upstream () or (rows,), row_weight () or (rows,), statistics (rows, 2 x (3 + K)). More
// attributes: the coefficients that are numbers, by their names in row_loss.py, where they are not the defaults of Problem;
// inputs ("logits", "log_probs", "probs"); instruction_set; and the names of the results in their order, "gives":
//   loss        (rows,)
//   total       row_weight x loss, added up over as many neighbouring rows as there are for each number
//   mass        (rows,) sum_j class_weight_j dense_j
//   gradient    of the shape of the logits, in the working precision
//   statistics  of labels, for a call that gives their gradient later
// A row whose soft target has an entry that is negative, NaN or infinite is NaN in each of them.
xla_ffi::Error* xla_rows(xla_ffi::CallFrame* frame);
