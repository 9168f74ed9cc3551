"""How often 95 % intervals of the mean log loss hold the mean of all rows, by drawing small samples from many losses.

    python benchmarks/interval_coverage.py [PREDICTIONS.npy LABELS.npy]

Without files: the losses of a simulated classifier. `Hall` is what the report shows, `t` is mean +- t standard errors.
"""

import sys

import numpy as np

from crossentropy.evaluation.intervals import Spread, student_quantile

DRAWS = 4000


def population() -> np.ndarray:
    """The losses to draw from."""
    if len(sys.argv) == 3:
        probabilities, labels = np.load(sys.argv[1]).astype(np.float64), np.load(sys.argv[2]).astype(np.intp)
    else:
        generator = np.random.default_rng(0)
        logits = generator.normal(scale=6.0, size=(100_000, 10))
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        labels = (generator.random((len(logits), 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(max=9)
    return -np.log(probabilities[np.arange(len(labels)), labels])


def main() -> None:
    losses = population()
    truth, generator = losses.mean(), np.random.default_rng(1)
    skewness = ((losses - truth) ** 3).mean() / losses.std() ** 3
    print(f"{len(losses):,} losses, mean {truth:.4f}, skewness {skewness:.1f}")
    print("  rows   Hall      t")
    for rows in (30, 100, 300, 1000, 3000):
        hall = plain = 0
        for _ in range(DRAWS):
            sample = generator.choice(losses, rows)
            d = sample - sample.mean()
            spread = Spread.from_moments(rows, sample.mean(), rows, (d**2).sum(), (d**3).sum())
            low, high = spread.interval()
            hall += low <= truth <= high
            plain += abs(sample.mean() - truth) <= student_quantile(0.975, rows - 1) * spread.standard_error
        print(f"{rows:6,}  {hall / DRAWS:.3f}  {plain / DRAWS:.3f}")


if __name__ == "__main__":
    main()
