"""A number on the device times an array, in place: nothing is read or written where that number is 1."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["turns"])
def scale_kernel(x, factor, count, turns, WORK: tl.constexpr, STEP: tl.constexpr):
    """x *= factor for ``count`` entries side by side, each program taking every num_programs-th step."""
    number = tl.load(factor)
    if number != 1.0:
        first = tl.program_id(0).to(tl.int64)
        for turn in range(turns):
            place = (first + turn * tl.num_programs(0)) * STEP + tl.arange(0, STEP)
            inside = place < count
            product = tl.load(x + place, mask=inside, other=0.0).to(WORK) * number.to(WORK)
            tl.store(x + place, product.to(x.dtype.element_ty), mask=inside)
