"""Sums by cluster: rows that belong together (of one patient, one user, one document) count as one observation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Self

import numpy as np

from .intervals import Spread

MOST_CLUSTERS = 65_536


@dataclass(frozen=True)
class ClusterSums:
    """Sum of w and of w l per cluster, in the order of the clusters' hashes.

    Its size is bounded: with more than 65,536 clusters the last bit of the hashes is dropped, as often as needed, which
    joins clusters at random. The standard error stays unbiased, from fewer and larger clusters.
    """

    keys: np.ndarray
    weight: np.ndarray
    loss: np.ndarray
    dropped_bits: int = 0

    @classmethod
    def empty(cls) -> Self:
        return cls(np.zeros(0, np.uint64), np.zeros(0), np.zeros(0))

    def update(self, codes: np.ndarray, names: tuple[str, ...], loss: np.ndarray, weight: np.ndarray | None) -> Self:
        """Add rows of finite loss; `codes` are positions in `names`, the clusters' names."""
        w = np.ones(len(loss)) if weight is None else weight
        present = np.flatnonzero(np.bincount(codes, minlength=len(names)))
        keys = np.array([cluster_hash(names[code]) for code in present], np.uint64)
        weights, losses = (np.bincount(codes, values, len(names))[present] for values in (w, w * loss))
        return self.merge(type(self)(keys, weights, losses))

    def merge(self, other: Self) -> Self:
        bits = max(self.dropped_bits, other.dropped_bits)
        keys = np.concatenate([self.keys, other.keys])
        while True:
            distinct, position = np.unique(keys >> np.uint64(bits), return_inverse=True)
            if len(distinct) <= MOST_CLUSTERS:
                break
            bits += 1
        weight, loss = (
            np.bincount(position, np.concatenate(pair), len(distinct))
            for pair in ((self.weight, other.weight), (self.loss, other.loss))
        )
        # the dropped bits stay in place as zeros, so that hashes of any age compare
        return type(self)(distinct << np.uint64(bits), weight, loss, bits)

    def spread(self) -> Spread | None:
        """The spread of the mean loss with the clusters as the independent units."""
        total = float(self.weight.sum())
        if not total > 0:
            return None
        mean = float(self.loss.sum()) / total
        d = self.loss - mean * self.weight
        return Spread.from_moments(len(d), mean, total, float((d**2).sum()), float((d**3).sum()))


def cluster_hash(name: str) -> int:
    # not Python's hash: that changes from process to process, and states of several processes are merged
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
