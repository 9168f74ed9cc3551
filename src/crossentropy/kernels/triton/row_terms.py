"""What the Triton kernels compute once per row, in float64: the formulas of ``row_loss`` on vectors of rows.

A row's statistics are a tuple in the order of ``FIELDS``, by the names of ``row_loss``. What a variant does not use is
0 in every row, and the compiler drops it.
"""

import triton
import triton.language as tl

from crossentropy.kernels.triton.vector_math import (
    INFINITY,
    difference_error,
    log1p,
    one_minus_exp,
    power,
    times,
)

FIELDS = (
    *("maximum", "ties", "others"),
    # Of sparse targets: sum_k b_k r_k (for focal loss r), sum_k b_k, and how many of the indices are classes.
    *("target", "index_mass", "found"),
    *("profile", "profile_mass", "allowed"),
    *("dense", "dense_mass", "target_sum"),
)


@triton.jit
def load(statistics, row, rows, splits, part, inside, HAS_MASSES: tl.constexpr):
    """The statistics of one part of the classes; they lie as (fields, parts, rows), the last six with HAS_MASSES."""
    # In 64 bits: 12 x rows exceed 2^31 where classes are few.
    step = splits * rows + 0 * row
    at = statistics + part * rows + row
    profile = tl.where(inside, 0.0, 0.0).to(tl.float64)
    profile_mass, allowed, dense, dense_mass, target_sum = profile, profile, profile, profile, profile
    if HAS_MASSES:
        profile = tl.load(at + 6 * step, mask=inside, other=0.0)
        profile_mass = tl.load(at + 7 * step, mask=inside, other=0.0)
        allowed = tl.load(at + 8 * step, mask=inside, other=0.0)
        dense = tl.load(at + 9 * step, mask=inside, other=0.0)
        dense_mass = tl.load(at + 10 * step, mask=inside, other=0.0)
        target_sum = tl.load(at + 11 * step, mask=inside, other=0.0)
    return (
        tl.load(at, mask=inside, other=0.0),
        tl.load(at + step, mask=inside, other=0.0),
        tl.load(at + 2 * step, mask=inside, other=0.0),
        tl.load(at + 3 * step, mask=inside, other=0.0),
        tl.load(at + 4 * step, mask=inside, other=0.0),
        tl.load(at + 5 * step, mask=inside, other=0.0),
        profile,
        profile_mass,
        allowed,
        dense,
        dense_mass,
        target_sum,
    )


@triton.jit
def moved(maximum, top):
    """maximum - top, and e to that power: what statistics relative to one are relative to the other."""
    shift = tl.where(maximum == top, 0.0, maximum - top)
    error = difference_error(maximum, top, shift)
    return shift, tl.exp(shift) * (1.0 + tl.where(tl.abs(error) < INFINITY, error, 0.0))


@triton.jit
def merged(statistics, row, rows, splits, inside, focal_gamma, HAS_MASSES: tl.constexpr):
    """The statistics of whole rows from those of disjoint parts of their classes: ``row_loss.merge``."""
    zero = tl.where(inside, 0.0, 0.0).to(tl.float64)
    m = zero - INFINITY
    n, others, target, index_mass, found = zero, zero, zero, zero, zero
    profile, profile_mass, allowed, dense, dense_mass, target_sum = zero, zero, zero, zero, zero, zero
    for part in range(splits):
        other = load(statistics, row, rows, splits, part, inside, HAS_MASSES)
        m2, n2, others2, target2, index_mass2, found2 = other[0], other[1], other[2], other[3], other[4], other[5]
        profile_mass2, dense_mass2 = other[7], other[10]
        top = tl.where((m2 > m) | (m2 != m2), m2, m)
        shift, scale = moved(m, top)
        shift2, scale2 = moved(m2, top)
        n_lost, n_lost2 = tl.where(m == top, 0.0, n), tl.where(m2 == top, 0.0, n2)
        others = (others + n_lost) * scale + (others2 + n_lost2) * scale2
        n = n - n_lost + n2 - n_lost2
        # Focal loss needs r itself, which moves once.
        weight, weight2 = index_mass, index_mass2
        if focal_gamma != 0.0:
            weight, weight2 = found, found2
        target += times(weight, shift) + target2 + times(weight2, shift2)
        profile += times(profile_mass, shift) + other[6] + times(profile_mass2, shift2)
        dense += times(dense_mass, shift) + other[9] + times(dense_mass2, shift2)
        index_mass += index_mass2
        found += found2
        profile_mass += profile_mass2
        allowed += other[8]
        dense_mass += dense_mass2
        target_sum += other[11]
        m = top
    return m, n, others, target, index_mass, found, profile, profile_mass, allowed, dense, dense_mass, target_sum


@triton.jit
def is_defined(state, entries):
    """False where value and gradient are NaN: ``row_loss.defined``."""
    m, _, others, target, _, found, profile, _, _, dense, _, _ = state
    is_number = (others == others) & (target == target) & (profile == profile) & (dense == dense)
    return (tl.abs(m) < INFINITY) & is_number & (found == entries)


@triton.jit
def log_sum(state):
    """L = log n + log1p(S / n)."""
    _, n, others, _, _, _, _, _, _, _, _, _ = state
    n = tl.where(n > 0.0, n, 1.0)
    return tl.log(n) + log1p(others / n)


@triton.jit
def masses(state, spread_mass, label_smoothing, dense_scale, PROFILE: tl.constexpr, DENSE: tl.constexpr):
    """s and g: the mass of the target measure, and the coefficient of the profile."""
    _, _, _, _, index_mass, _, _, profile_mass, allowed, _, dense_mass, target_sum = state
    s, g = index_mass, index_mass * 0.0
    if PROFILE:
        spread = target_sum if DENSE else spread_mass
        g = label_smoothing * spread / allowed
        s = s + g * profile_mass
    if DENSE:
        s = s + dense_scale * dense_mass
    return s, g


@triton.jit
def focal_slope(loss, gamma):
    """f'(l): ``row_loss.focal_slope``."""
    chance = one_minus_exp(loss)
    ratio = tl.where(loss > 0.0, loss / tl.where(loss > 0.0, chance, 1.0), 1.0)
    decaying = tl.where(loss == INFINITY, 0.0, ratio * tl.exp(-loss))
    return power(chance, gamma) * (1.0 + gamma * decaying)


@triton.jit
def row_loss(state, spread_mass, options, entries, PROFILE: tl.constexpr, DENSE: tl.constexpr):
    """The loss of every row, NaN where it is undefined: ``row_loss.row_loss``."""
    label_smoothing, focal_gamma, z_loss, dense_scale = options
    m, _, _, target, index_mass, _, profile, _, _, dense, _, _ = state
    total = log_sum(state)
    s, g = masses(state, spread_mass, label_smoothing, dense_scale, PROFILE, DENSE)
    loss = s * total - target
    if focal_gamma != 0.0:
        loss = total - target
        loss = times(index_mass, loss * power(one_minus_exp(loss), focal_gamma))
    if PROFILE:
        loss = loss + times(g, -profile)
    if DENSE:
        loss = loss + times(dense_scale + 0.0 * m, -dense)
    if z_loss != 0.0:
        lse = m + total
        loss = loss + z_loss * lse * lse
    return tl.where(is_defined(state, entries), loss, float("nan"))


@triton.jit
def gradient_terms(state, spread_mass, options, entries, PROFILE: tl.constexpr, DENSE: tl.constexpr):
    """s and g, the slope f' of the focal loss (1 without), 2 zeta lse, and whether the row is defined."""
    label_smoothing, focal_gamma, z_loss, dense_scale = options
    m, _, _, target, _, _, _, _, _, _, _, _ = state
    s, g = masses(state, spread_mass, label_smoothing, dense_scale, PROFILE, DENSE)
    slope, pull = s * 0.0 + 1.0, s * 0.0
    if focal_gamma != 0.0:
        slope = focal_slope(log_sum(state) - target, focal_gamma)
        s = s * slope
    if z_loss != 0.0:
        pull = 2.0 * z_loss * (m + log_sum(state))
    return s, g, slope, pull, is_defined(state, entries)
