// The core as a custom call of programs that XLA compiles for the CPU.
#pragma once

#include "xla_ffi.hpp"

// Arguments, in this order (no elements: absent): logits (outer, classes, inner), class_bias (classes,), class_mask (classes,) or
// (rows, classes), indices (rows, K), index_weight (1, 1) or (rows, K), dense (rows, classes), class_weight (classes,), target_sum ()
// or (rows,), valid (rows,), upstream () or (rows,), row_weight () or (rows,). Attributes: the numbers of Problem by their names,
// threads, instruction_set, adds_up. Results: losses (rows,), or if it adds up row_weight x loss over as many neighbouring rows as
// there are for each number; and the gradient, of the shape of the logits, where there is a second one.
xla_ffi::Error* xla_rows(xla_ffi::CallFrame* frame);
