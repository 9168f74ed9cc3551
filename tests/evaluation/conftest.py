"""Files of predictions in every format, from one table."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="reading files needs the extra `report`")
pytest.importorskip("rich", reason="the text form needs the extra `report`")


SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def shared():
    """Real predictions beside the repository; tests that need them skip where they are absent."""
    if not SHARED.exists():
        pytest.skip("the shared predictions are not on this machine")
    return SHARED


@pytest.fixture
def save(tmp_path):
    """Write columns to a file in one of the formats and give its path."""

    def write(columns, name="predictions.parquet"):
        table, path = pa.table(columns), tmp_path / name
        if name.endswith(".parquet"):
            pa.parquet.write_table(table, path)
        elif name.endswith(".csv"):
            pa.csv.write_csv(table, path)
        elif name.endswith(".stream"):
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
        else:
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
        return path

    return write


@pytest.fixture
def run():
    """Run the command line inside this process: (exit status, standard output, standard error)."""
    from crossentropy.evaluation.cli import main

    def call(*arguments):
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                status = main([str(argument) for argument in arguments])
            except SystemExit as end:  # argparse ends a wrong call this way
                status = end.code
        return status, out.getvalue(), err.getvalue()

    return call


@pytest.fixture
def run_json(run):
    def call(*arguments):
        status, out, err = run(*arguments, "--json")
        assert status == 0, err
        return json.loads(out)

    return call


def softmax_rows(rows, classes, seed=0, spread=2.0):
    """Random probabilities that add up to 1, with labels drawn from them."""
    generator = np.random.default_rng(seed)
    weight = np.exp(spread * generator.standard_normal((rows, classes)))
    probabilities = weight / weight.sum(axis=1, keepdims=True)
    above = generator.random((rows, 1)) > probabilities.cumsum(axis=1)
    labels = np.minimum(above.sum(axis=1), classes - 1)
    return probabilities, labels


def as_columns(probabilities, labels, names=None, ids=None):
    names = names or [str(i) for i in range(probabilities.shape[1])]
    columns = {"label": labels, **{f"p_{name}": probabilities[:, i] for i, name in enumerate(names)}}
    return columns if ids is None else {"id": ids, **columns}
