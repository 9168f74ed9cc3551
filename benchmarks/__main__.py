"""``python -m benchmarks``: measure, print the table, and (--write) keep it in RESULTS.md with machine and date."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
from typing import Any

import numpy as np

from benchmarks import cases as catalogue
from benchmarks import linear
from benchmarks.contenders import OTHERS, arithmetic, ours, ours_on_jax, ours_on_tensors, plain
from benchmarks.timing import bandwidth_calls, interleaved
from crossentropy.kernels import native

FOLDER = pathlib.Path(__file__).parent


def number(result: Any) -> float:
    """The loss that a call returned."""
    if isinstance(result, tuple):
        result = result[0]
    return float(result.detach() if hasattr(result, "detach") else result)


def agree(case: catalogue.Case, calls: dict[tuple[str, str], Any]) -> None:
    """The same loss for everyone; not with 16-bit logits, whose mean others keep in 16 bits (float16: inf)."""
    expected = number(calls["ours", "value"]())
    tolerance = {"float64": 1e-6, "float32": 1e-4}.get(case.logits.dtype.name, 2e-2)
    for (who, what), call in calls.items():
        if who != "ours" and case.logits.itemsize == 2:
            continue
        found = number(call())
        if not abs(found - expected) <= tolerance * abs(expected):
            raise AssertionError(f"{case.suite} {case.name}: {who} {what} gives {found!r}, ours {expected!r}")


def measure(case: catalogue.Case, threads: int, seconds: float, only_jax: bool = False) -> dict[str, Any]:
    forms = (ours, ours_on_tensors, ours_on_jax)
    calls = {("ours", what): call for form in forms for what, call in form(case, threads).items()}
    if only_jax:
        calls = {key: call for key, call in calls.items() if key[1] == "value" or "JAX" in key[1]}
    for who, contender in OTHERS.items():
        if only_jax and who not in ("JAX", "optax"):
            continue
        calls |= {(who, what): call for what, call in contender(case, threads).items()}
    agree(case, calls)
    # Large enough that no cache holds it; measured among the rest, in the same seconds.
    machine = bandwidth_calls(1 << 26 if seconds < 1 else 1 << 28) if case.bytes >= 1 << 22 else {}
    if machine and case.kind == "labels" and case.logits.ndim == 2 and not case.options:
        machine |= arithmetic(case, threads)
    machine |= plain(case, threads)
    named = {" | ".join(key): call for key, call in calls.items()} | machine
    taken = interleaved(named, seconds)
    return {
        "suite": case.suite,
        "case": case.name,
        "dtype": case.logits.dtype.name,
        "bytes": case.bytes,
        "elements": case.logits.size,
        "threads": threads,
        "seconds": {name: value for name, value in taken.items() if name not in machine},
        "read_bytes_per_second": (1 << 26 if seconds < 1 else 1 << 28) / taken["read"] if "read" in taken else None,
        "copy_bytes_per_second": (1 << 26 if seconds < 1 else 1 << 28) / taken["copy"] if "copy" in taken else None,
        **{name: taken[name] for name in ("arithmetic", "plain value", "plain gradient into out=") if name in taken},
    }


def rows_of(result: dict[str, Any]) -> list[list[str]]:
    """One line of the table for each thing that is computed."""
    taken, lines = result["seconds"], []
    for what in WHAT:
        mine = taken.get(f"ours | {what}")
        if mine is None:
            continue
        others = []
        for who in OTHERS:
            theirs = taken.get(f"{who} | {what.split()[0]}")
            others.append(f"{theirs / mine:.2f}" if theirs else "")
        bandwidth = result["read_bytes_per_second" if what.startswith("value") else "copy_bytes_per_second"]
        share = f"{result['bytes'] / mine / bandwidth:.0%}" if bandwidth else ""
        time = f"{mine * 1e3:.3f}"
        per_element = f"{mine / result['elements'] * 1e9:.2f}"
        alone = f"{result['arithmetic'] / mine:.0%}" if "arithmetic" in result and what == "value" else ""
        over_plain = f"{mine / result[f'plain {what}']:.2f}" if f"plain {what}" in result else ""
        head = [result["suite"], result["case"], str(result["threads"]), what, time, per_element]
        lines.append([*head, *others, share, alone, over_plain])
    return lines


WHAT = (
    *("value", "gradient", "gradient into out="),
    *("value of tensors", "gradient of tensors", "gradient of tensors into out="),
    *("value of JAX arrays", "gradient of JAX arrays"),
    *("value of JAX arrays, own mean", "gradient of JAX arrays, own mean"),
)
HEAD = [
    "suite",
    "case",
    "threads",
    "what",
    "ms",
    "ns per element",
    *(f"{who} / ours" for who in OTHERS),
    "of bandwidth",
    "of arithmetic",
    "ours / plain",
]


def machine() -> dict[str, str]:
    name = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        name = next(
            (line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), name
        )
    versions = {}
    for package in ("numpy", "torch", "jax", "optax", "scikit-learn", "scipy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": f"{name}, {os.cpu_count()} cores",
        "kernel": native.kernel_name(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "load average when done": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "",
        **versions,
    }


PREFACE = """# Benchmark results

Each section is written by the command it names. Medians of calls taken in turns, three runs to a turn, as a loop would
find caches and memory; a ratio is the other library's time over ours for the same threads (JAX: always all). PyTorch's
tensors and JAX's arrays are made beforehand. The gradient of PyTorch, and ours of tensors, is forward + backward; into
out= it is value and gradient in one. "of bandwidth": bytes of the logits per second over what the machine reads (value)
or copies (gradient) with one thread, measured in the same seconds. A high load average means that others were at work:
times and shares then say little, ratios a little more. "of arithmetic": the time of the same value of one row, repeated
without a copy so that it never leaves the cache, over the time of the value. "ours / plain": the time of the row over
that of the same logits with class labels and no option.

"""


def markdown(results: list[dict[str, Any]], heading: str, command: str) -> str:
    return section(
        heading,
        command,
        [
            "| " + " | ".join(HEAD) + " |",
            "|" + "---|" * len(HEAD),
            *("| " + " | ".join(line) + " |" for result in results for line in rows_of(result)),
        ],
    )


def section(heading: str, command: str, table: list[str]) -> str:
    about = "; ".join(f"{key} {value}" for key, value in machine().items())
    return "\n".join([f"## {heading}", "", f"`{command}`: {about}", "", *table]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--suite",
        action="append",
        choices=(*catalogue.SUITES, "linear", "gpu"),
        help="only this suite (may be repeated); gpu, which needs a CUDA device, is never among the others",
    )
    parser.add_argument(
        "--case", action="append", metavar="NAME", help='only this case, by its name in the table: "128 x 1,000"'
    )
    parser.add_argument("--seconds", type=float, help="how long a case is measured (default: 2, with --quick 0.2)")
    parser.add_argument(
        "--quick", action="store_true", help="a thirty-second of the rows, a fifth of a second per case"
    )
    parser.add_argument("--jax", action="store_true", help="JAX arrays alone, beside optax and JAX")
    parser.add_argument("--json", metavar="FILE", help="also write every number there")
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md and the roofline figure")
    parser.add_argument("--threads", type=int, action="append", help="thread counts (default: 1 and all)")
    given = parser.parse_args()
    if given.suite == ["gpu"]:
        from benchmarks import gpu

        gpu.main()
        return
    if "gpu" in (given.suite or []):
        parser.error("--suite gpu stands alone")
    if given.case and given.write:
        parser.error("--write keeps whole suites, --case is a part of one")
    seconds = given.seconds or (0.2 if given.quick else 2.0)
    counts = given.threads or sorted(
        {1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1}
    )
    suites = tuple(given.suite or (*catalogue.SUITES, "linear"))
    command = (
        "python -m benchmarks"
        + "".join(f" --suite {name}" for name in given.suite or ())
        + " --quick" * given.quick
        + (f" --seconds {given.seconds:g}" if given.seconds else "")
        + " --jax" * given.jax
        + " --write" * given.write
    )
    sections = {}
    if "linear" in suites and given.jax:
        from benchmarks import linear_jax

        sections["linear-jax"] = section("linear-jax", command, linear_jax.table(given.quick))
    elif "linear" in suites:
        sections["linear"] = linear_section(linear.table(given.quick), command)
    results = []
    if suites != ("linear",):
        print(" | ".join(HEAD))
    for case in catalogue.cases(suites, 32 if given.quick else 1):
        if given.case and case.name not in given.case:
            continue
        for threads in counts:
            result = measure(case, threads, seconds, given.jax)
            results.append(result)
            for line in rows_of(result):
                print(" | ".join(line), flush=True)
    unknown = set(given.case or ()) - {result["case"] for result in results}
    if unknown:
        parser.error(f"no case named {', '.join(map(repr, sorted(unknown)))} in {', '.join(suites)}")
    if given.json:
        pathlib.Path(given.json).write_text(json.dumps({"machine": machine(), "results": results}, indent=1))
    for suite in dict.fromkeys(result["suite"] for result in results):
        name = suite + "-jax" * given.jax
        sections[name] = markdown([result for result in results if result["suite"] == suite], name, command)
    if given.write:
        for name, text in sections.items():
            keep(FOLDER / "RESULTS.md", name, text)
    if given.write and results and not given.jax:
        from benchmarks.figure import roofline

        roofline(results, FOLDER.parent / "docs" / "roofline.svg")


def linear_section(table: list[str], command: str) -> str:
    meaning = [
        "Medians of forward + backward to features and weight, taken in turns; beside them the three matrix products",
        "alone, in float32, into memory that is there and into fresh results. Memory: the most that a process takes",
        "beyond inputs and gradients, by the system's own high-water mark; below 0 where more was given back than",
        "taken.",
        "",
    ]
    return section("linear", command, [*meaning, *table])


def keep(path: pathlib.Path, name: str, text: str) -> None:
    """Put ``text`` in the place of the section of this name, or at the end; the rest of the file stays."""
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    marked = f"{start}\n{text}{end}\n"
    old = path.read_text() if path.exists() else PREFACE
    if start in old and end in old:
        before, rest = old.split(start, 1)
        path.write_text(before + marked + rest.split(end, 1)[1].removeprefix("\n"))
    else:
        path.write_text(old.rstrip("\n") + "\n\n" + marked)


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
