"""How fast `crossentropy report` is: 10 million rows x 10 float32 classes of Parquet, beside scikit-learn's log_loss.

    python -m benchmarks.report_speed [--rows 10000000] [--repeat 3]

The file is made in a temporary folder and deleted. Every measurement is a process of its own. The report is timed from
opening the file to the finished result, reading included; its imports are shown beside it, and its memory is the
highest that the operating system saw. `log_loss` is timed alone, on arrays that are loaded already.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CLASSES = 10
ROW_GROUP = 1 << 20  # pyarrow's own size

OURS = """
import json, resource, sys, time
start = time.perf_counter()
from crossentropy.evaluation import report
imported = time.perf_counter()
result = report(sys.argv[1])
seconds = time.perf_counter() - imported
unit = 1024 if sys.platform != "darwin" else 1  # of ru_maxrss, in bytes
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
print(json.dumps({"loss": result.loss.mean, "seconds": seconds, "imports": imported - start, "peak": peak}))
"""
SKLEARN = """
import json, sys, time
import numpy as np
import pyarrow.parquet
from sklearn.metrics import log_loss
table = pyarrow.parquet.read_table(sys.argv[1])
labels = table["label"].to_numpy()
p = np.empty((len(labels), table.num_columns - 1), np.float32)
for i in range(p.shape[1]):
    p[:, i] = table[f"p_{i}"].to_numpy()
del table
start = time.perf_counter()
loss = log_loss(labels, p)
print(json.dumps({"loss": float(loss), "seconds": time.perf_counter() - start}))
"""


def write(path: Path, rows: int) -> None:
    """Softmax probabilities of normal logits, labels drawn from them."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet

    generator = np.random.default_rng(0)
    schema = pa.schema([("label", pa.int64()), *((f"p_{i}", pa.float32()) for i in range(CLASSES))])
    with pa.parquet.ParquetWriter(path, schema) as writer:
        for first in range(0, rows, ROW_GROUP):
            count = min(ROW_GROUP, rows - first)
            p = np.exp(2 * generator.standard_normal((CLASSES, count), np.float32))
            p /= p.sum(axis=0)
            labels = (p.cumsum(axis=0) < generator.random(count, np.float32)).sum(axis=0).clip(max=CLASSES - 1)
            writer.write_table(pa.table([pa.array(labels), *map(pa.array, p)], schema=schema), ROW_GROUP)


def measure(program: str, path: Path) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "predictions.parquet")
        # In a process of its own: the high-water mark of a child starts at what its parent held when it was started.
        writer = multiprocessing.get_context("spawn").Process(target=write, args=(path, options.rows))
        writer.start()
        writer.join()
        os.sync()
        print(f"{options.rows:,} rows x {CLASSES} float32 classes, {path.stat().st_size / 1e6:.0f} MB of Parquet")
        runs = [measure(OURS, path) for _ in range(options.repeat)]
        ours = min(runs, key=lambda run: run["seconds"])
        theirs = measure(SKLEARN, path)
    # they clip the probabilities to those that float32 can tell from 0 and 1
    assert abs(ours["loss"] - theirs["loss"]) < 1e-6 * theirs["loss"], (ours, theirs)
    speeds = [options.rows / run["seconds"] / 1e6 for run in (ours, theirs)]
    print(f"report, read and evaluated:    {speeds[0]:.2f} million rows per second", end="")
    print(f" ({ours['seconds']:.2f} s after {ours['imports']:.2f} s of imports), peak {ours['peak'] / 1e6:.0f} MB")
    print(f"scikit-learn, log_loss alone:  {speeds[1]:.2f} million rows per second", end="")
    print(f" ({theirs['seconds']:.2f} s): the report takes {ours['seconds'] / theirs['seconds']:.2f} of its time")


if __name__ == "__main__":
    main()
