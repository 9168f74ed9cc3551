"""The roofline of docs/performance.md, from the benchmark's own numbers."""

from __future__ import annotations

import pathlib
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def roofline(results: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Bytes of float32 logits per second by number of classes, one thread, beside the machine's read and copy."""
    plain = [r for r in results if r["suite"] == "shapes" and r["threads"] == 1 and r["read_bytes_per_second"]]
    if not plain:
        return
    classes = [int(r["case"].split(" x ")[1].replace(",", "")) for r in plain]
    figure, axes = plt.subplots(figsize=(8.5, 4), layout="constrained")
    lines = {"value": ("ours | value", "C0"), "value and gradient into out=": ("ours | gradient into out=", "C1")}
    lines |= {"PyTorch, value": ("PyTorch | value", "C2"), "PyTorch, forward + backward": ("PyTorch | gradient", "C3")}
    for label, (key, color) in lines.items():
        points = sorted(
            (c, r["bytes"] / r["seconds"][key] / 1e9)
            for c, r in zip(classes, plain, strict=True)
            if key in r["seconds"]
        )
        axes.plot(*zip(*points, strict=True), "o-", color=color, label=label)
    for name, style in (("read", "--"), ("copy", ":")):
        rates = sorted(r[f"{name}_bytes_per_second"] for r in plain)
        axes.axhline(rates[len(rates) // 2] / 1e9, color="0.4", linestyle=style, label=f"the machine's {name}")
    axes.set(
        xscale="log", yscale="log", xlabel="classes", ylabel="GB of logits per second", title="float32, one thread"
    )
    figure.legend(loc="outside right upper", fontsize="small", frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
