"""``jax.numpy`` as the generic primitives need it from XLA, whose widest type may be float32.

Without ``jax_enable_x64`` JAX has no float64: the working precision is float32, and four things that float64 forgives
would then cost digits or rows. What is said of XLA's errors was measured with jaxlib 0.10.2 on the CPU, over 2 million
arguments each.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crossentropy.kernels.xla.sums import pairwise_sum


class Namespace:
    """jax.numpy, but for the members below."""

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)

    @property
    def int64(self) -> np.dtype:
        """The widest integers that JAX is set to hold; asking for wider ones would only warn."""
        return jax.dtypes.canonicalize_dtype(np.int64)

    @property
    def float64(self) -> np.dtype:
        return jax.dtypes.canonicalize_dtype(np.float64)

    def sum(self, array: Any, axis: int | None = None) -> Any:
        """Pairwise sums of floating numbers, over one axis or all."""
        if not jnp.issubdtype(array.dtype, jnp.floating):
            return jnp.sum(array, axis=axis)
        return pairwise_sum(jnp.reshape(array, (-1,)) if axis is None else jnp.moveaxis(array, axis, -1))

    def rounded(self, z: Any) -> Any:
        """z, from which a later subtraction starts as it is rounded to the dtype.

        XLA fuses the computation of z into z - m and lets the compiler form a fused multiply-add of it: m is then
        subtracted from the unrounded product, so that no entry equals the maximum (for z = 5 tanh(x / 5) in 167 of 200
        rows) and the count of the largest is 0. A maximum between the two cannot be fused away; optimization_barrier
        and reduce_precision are removed before the fusion.
        """
        return jnp.where(z == -jnp.inf, z, jnp.maximum(z, jnp.finfo(z.dtype).min))

    def expm1(self, x: Any) -> Any:
        """e^x - 1 to 1.5 ulp for x <= 0, where XLA's is off by up to 5.2 (float32, at x = -0.13)."""
        is_small = jnp.abs(x) < 0.7
        y = jnp.where(is_small, x, 0.0)
        # x + x^2 (1/2! + x/3! + ...): the first term left out is below 2^-27 of x, below 2^-56 in float64.
        series = jnp.zeros_like(y)
        for k in range(11 if x.dtype == jnp.float32 else 18, 1, -1):
            series = series * y + 1.0 / math.factorial(k)
        return jnp.where(is_small, y + y * y * series, jnp.exp(x) - 1.0)

    def exp2(self, x: Any) -> Any:
        """2^x by e^(fraction ln 2) and an exact power, to 2 ulp, where XLA's is off by up to 4.7 (float32)."""
        is_ordinary = jnp.abs(x) < 100.0
        y = jnp.where(is_ordinary, x, 0.0)
        whole = jnp.round(y)
        return jnp.where(is_ordinary, jnp.ldexp(jnp.exp((y - whole) * math.log(2.0)), whole.astype(int)), jnp.exp2(x))


namespace = Namespace()
