"""Every row's numbers, as a table and as files."""

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from crossentropy.evaluation import report, rows

from .conftest import as_columns, softmax_rows

NAMES = ["cat", "dog", "emu"]


@pytest.fixture
def predictions(save, monkeypatch):
    monkeypatch.setattr("crossentropy.evaluation.formats.BATCH_VALUES", 90)  # several batches
    probabilities, labels = softmax_rows(200, 3, spread=3.0)
    weight = (np.arange(200) % 10 > 0).astype(float)
    columns = as_columns(probabilities, np.array(NAMES)[labels], NAMES, ids=[f"r{i}" for i in range(200)])
    return save({**columns, "weight": weight}), probabilities, labels, weight > 0


def test_every_row_by_hand(predictions):
    path, probabilities, labels, kept = predictions
    table = rows(path).to_pydict()
    assert table["row"] == np.flatnonzero(kept).tolist()
    assert table["id"] == [f"r{i}" for i in np.flatnonzero(kept)]
    assert table["label"] == np.array(NAMES)[labels[kept]].tolist()
    assert table["prediction"] == np.array(NAMES)[probabilities[kept].argmax(axis=1)].tolist()
    chosen = probabilities[np.arange(200), labels][kept]
    np.testing.assert_array_equal(table["label_probability"], chosen)
    np.testing.assert_array_equal(table["prediction_probability"], probabilities[kept].max(axis=1))
    np.testing.assert_allclose(table["loss"], -np.log(chosen), rtol=1e-14)
    np.testing.assert_allclose(table["entropy"], -(probabilities * np.log(probabilities)).sum(axis=1)[kept], rtol=1e-12)


def test_worst_rows_come_first(predictions):
    path, probabilities, labels, kept = predictions
    loss = np.where(kept, -np.log(probabilities[np.arange(200), labels]), -1)
    assert rows(path, worst=7)["row"].to_pylist() == np.argsort(-loss)[:7].tolist()
    assert rows(path, worst=1000).num_rows == kept.sum()
    assert rows(path, worst=0).num_rows == 0


def test_label_errors_are_those_that_the_report_marks(predictions):
    path, *_ = predictions
    found, whole = rows(path, label_errors=True), report(path, worst=200)
    suspected = {row.id for row in whole.worst if whole.is_suspected(row)}
    assert set(found["id"].to_pylist()) == suspected
    assert 0 < len(suspected) < whole.loss.rows - whole.loss.correct


@pytest.mark.parametrize("name", ["out.parquet", "out.csv"])
def test_files_hold_the_table(predictions, run, tmp_path, name):
    path, *_ = predictions
    output = tmp_path / name
    status, out, err = run("rows", path, "--output", output)
    assert (status, out, err) == (0, "", "")
    read = pyarrow.parquet.read_table if name.endswith("parquet") else pyarrow.csv.read_csv
    expected = rows(path)
    for column in expected.column_names:
        assert read(output)[column].to_pylist() == expected[column].to_pylist()


def test_output_that_cannot_be_written(predictions, run, tmp_path):
    path, *_ = predictions
    for output, message in (
        (tmp_path / "out.xlsx", "written as .parquet or .csv"),
        (tmp_path / "no" / "o.csv", "written"),
    ):
        status, _, err = run("rows", path, "--output", output)
        assert status == 1
        assert message in err
        assert err.count("\n") == 1


def test_rows_go_to_standard_output(predictions, capfdbinary):
    from crossentropy.evaluation.cli import main

    path, *_ = predictions
    assert main(["rows", str(path), "--worst", "3"]) == 0
    lines = capfdbinary.readouterr().out.decode().splitlines()
    assert lines[0].split(",")[:3] == ['"row"', '"id"', '"label"']
    assert [line.split(",")[0] for line in lines[1:]] == [str(row) for row in rows(path, worst=3)["row"].to_pylist()]


def test_rows_of_arrays_have_no_id():
    probabilities, labels = softmax_rows(5, 3)
    assert "id" not in rows(probabilities, labels=labels).column_names


def test_a_table_of_parts(predictions):
    path, *_ = predictions
    table = report(path, by=["label"]).to_arrow()
    assert isinstance(table, pa.Table)
    assert table["by"].to_pylist() == ["class"] * 3 + ["label"] * 3
    assert table["nats"].to_pylist()[:3] == pytest.approx(table["nats"].to_pylist()[3:], rel=1e-12)
    assert set(table.column_names) >= {"value", "rows", "low_nats", "high_nats", "share", "accuracy"}
