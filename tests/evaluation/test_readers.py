"""Files in every format give the same numbers, and files that cannot be read end in one line."""

import gzip
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossentropy.evaluation import PredictionError, language_model_rows, read_predictions, report, rows

from .conftest import as_columns, softmax_rows

NAMES = ["cat", "dog", "emu"]


@pytest.fixture
def columns():
    probabilities, labels = softmax_rows(100, 3)
    return as_columns(probabilities, [NAMES[i] for i in labels], NAMES, ids=[f"r{i}" for i in range(100)])


@pytest.mark.parametrize("name", ["p.parquet", "p.csv", "p.arrow", "p.stream", "noname"])
def test_every_format_gives_the_same_numbers(columns, save, name):
    probabilities, labels = softmax_rows(100, 3)
    chosen = probabilities[np.arange(100), labels]
    result = report(save(columns, name))
    assert result.loss.mean == pytest.approx(-np.log(chosen).mean(), rel=1e-14)
    assert result.classes == tuple(NAMES)
    assert result.worst[0].id == f"r{result.worst[0].row}"
    assert result.reading == ("label from 'label', probabilities from 'p_cat' to 'p_emu', id from 'id'",)


def test_npy_with_labels(tmp_path):
    probabilities, labels = softmax_rows(100, 3)
    np.save(tmp_path / "p.npy", probabilities)
    expected = -np.log(probabilities[np.arange(100), labels]).mean()
    stored = [labels.astype(np.uint8), labels.astype(">i4"), labels.astype(float), labels.astype(str)]
    for number, values in enumerate(stored):
        np.save(tmp_path / f"y{number}.npy", values)
        result = report(tmp_path / "p.npy", labels=tmp_path / f"y{number}.npy")
        assert result.loss.mean == pytest.approx(expected, rel=1e-14)
    np.save(tmp_path / "p.npy", np.asfortranarray(probabilities).astype(">f8"))
    assert report(tmp_path / "p.npy", labels=tmp_path / "y0.npy").loss.mean == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("type", [pa.int8(), pa.uint64(), pa.float32(), pa.string(), pa.large_string()])
def test_labels_of_every_type_are_positions(save, type):
    probabilities, labels = softmax_rows(30, 3)
    expected = report(save(as_columns(probabilities, labels, NAMES), "expected.arrow")).loss
    stored = pa.array(labels.tolist()).cast(type)
    for values in (stored, stored.dictionary_encode()):
        assert report(save(as_columns(probabilities, values, NAMES), "labels.arrow")).loss == expected


def test_a_category_without_rows_needs_no_class(save):
    labels = pa.DictionaryArray.from_arrays(pa.array([1, 2]), pa.array(["cow", "cat", "dog"]))
    assert report(save({"label": labels, "p_cat": [0.9, 0.1], "p_dog": [0.1, 0.9]})).loss.correct == 2


def test_csv_dialects(tmp_path):
    text = "id;label;p_cat;p_dog\n1;cat;0.9;0.1\n2;dog;0;1\n"
    for name, content in {
        "semicolon.csv": text.encode(),
        "tab.tsv": text.replace(";", "\t").encode(),
        "comma.csv.gz": gzip.compress(text.replace(";", ",").encode()),
        "windows.csv": b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
        "quoted.csv": text.replace("1;cat", '"a;\n1";"cat"').encode(),
    }.items():
        (tmp_path / name).write_bytes(content)
        result = report(tmp_path / name)
        assert result.loss.mean == pytest.approx(-np.log(0.9) / 2, rel=1e-15), name
        assert result.classes == ("cat", "dog")
        assert result.loss.correct == 2


def test_csv_columns_that_begin_with_whole_numbers(tmp_path):
    rows = ["cat,1,0"] * 40_000 + ["dog,0.25,0.75"]  # more than the block that a reader would guess the types from
    (tmp_path / "p.csv").write_text("label,p_cat,p_dog\n" + "\n".join([f"{r}" for r in rows] * 2) + "\n")
    assert report(tmp_path / "p.csv").loss.mean == pytest.approx(-2 * np.log(0.75) / 80_002, rel=1e-12)


def test_batches_do_not_change_the_numbers(save, monkeypatch):
    probabilities, labels = softmax_rows(1000, 3)
    path = save(as_columns(probabilities, labels, ids=list(range(1000))))
    whole = report(path)
    monkeypatch.setattr("crossentropy.evaluation.formats.BATCH_VALUES", 100)
    pieces = report(path)
    assert len(list(read_predictions(path))) > 10
    assert pieces.loss.mean == pytest.approx(whole.loss.mean, rel=1e-14)
    assert pieces.worst == whole.worst
    assert pieces.row_sums == whole.row_sums
    assert isinstance(whole.worst[0].id, int)


def test_ten_thousand_classes(tmp_path):
    classes = 10_000
    np.save(tmp_path / "p.npy", np.full((70, classes), 1 / classes, np.float32))
    np.save(tmp_path / "y.npy", np.arange(70) * 100)
    result = report(tmp_path / "p.npy", labels=tmp_path / "y.npy")
    assert result.loss.mean == pytest.approx(-np.log(np.float64(np.float32(1 / classes))), rel=1e-14)


def test_predictions_can_be_read_twice(columns, save):
    predictions = read_predictions(save(columns))
    assert predictions.rows == 100
    assert [sum(batch.rows for batch in predictions) for _ in range(2)] == [100, 100]


# more ways to hand over predictions ---------------------------------------------------------------------------------


def same_report(found, expected):
    assert found.loss.mean == pytest.approx(expected.loss.mean, rel=1e-13)
    assert found.classes == expected.classes
    assert [(row.row, row.id) for row in found.worst] == [(row.row, row.id) for row in expected.worst]


def test_tables_in_memory(columns, save):
    pandas = pytest.importorskip("pandas", reason="reads a pandas table")
    expected, table = report(save(columns)), pa.table(columns)
    tables = [table, pandas.DataFrame(columns)]
    try:
        import polars

        tables.append(polars.DataFrame(columns))
    except ModuleNotFoundError:
        pass  # one library less to compare with; the interface is the same
    for one in tables:
        found = report(one)
        same_report(found, expected)
        assert found.source.split(".")[0] in ("pyarrow", "pandas", "polars")


def test_arrays_in_memory():
    probabilities, labels = softmax_rows(100, 3)
    found = report(probabilities, labels=labels)
    assert found.loss.mean == pytest.approx(-np.log(probabilities[np.arange(100), labels]).mean(), rel=1e-14)
    assert report(probabilities.tolist(), labels=labels.tolist()).loss.mean == found.loss.mean
    assert report(np.log(probabilities), labels=labels, inputs="log_probs").loss.mean == pytest.approx(found.loss.mean)
    with pytest.raises(PredictionError, match=r"row 3 .*not the logarithm of a probability: it lies above 0"):
        report(np.where(np.arange(100)[:, None] == 3, 0.1, np.log(probabilities)), labels=labels, inputs="log_probs")
    with pytest.raises(PredictionError, match=r"row 0 .*inf in class 0 is not a logit"):
        report(np.full((3, 2), np.inf), labels=[0, 1, 0], inputs="logits")
    with pytest.raises(ValueError, match=r"inputs must be"):
        report(probabilities, labels=labels, inputs="odds")


def test_folder_and_pattern_are_one_table(columns, save, tmp_path):
    expected = report(save(columns, "whole.parquet"))
    folder = tmp_path / "parts"
    folder.mkdir()
    for start in range(0, 100, 40):
        part = pa.table(columns).slice(start, 40)
        pa.parquet.write_table(part, folder / f"part-{start:03}.parquet")
    (folder / "_SUCCESS").touch()
    for source in (folder, f"{folder}/part-*.parquet"):
        found = report(source)
        same_report(found, expected)
        assert found.source == f"{source} (3 files)"
    pa.parquet.write_table(pa.table({"label": [1]}), folder / "part-999.parquet")
    with pytest.raises(PredictionError, match=r"column '\w+' is in some files of .* and not in others"):
        report(folder)
    for nothing in (tmp_path / "none*", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(PredictionError, match=r"there are no files"):
            report(str(nothing))


@pytest.mark.parametrize("type", [pa.list_(pa.float32()), pa.list_(pa.float64(), 3), pa.large_list(pa.float64())])
def test_one_list_per_row(save, type):
    probabilities, labels = softmax_rows(100, 3)
    stored = probabilities.astype(np.float32) if type.value_type == pa.float32() else probabilities
    path = save({"label": labels, "probs": pa.array(stored.tolist(), type)}, "lists.arrow")
    same_report(report(path), report(stored, labels=labels))


def test_lists_of_different_lengths_are_refused(save):
    for values, message in (
        ([[0.5, 0.5], [0.2, 0.3, 0.5]], "row 1 .*has 3 values, not 2"),
        ([[0.5, 0.5], None], "row 1 .*list in column 'probs' is missing"),
        ([[0.5, 0.5], [0.5, None]], "row 1 .*a value in column 'probs' is missing"),
        ([[], []], "row 0 .*has 0 values"),
    ):
        with pytest.raises(PredictionError, match=message):
            report(save({"label": [0, 1], "probs": pa.array(values, pa.list_(pa.float64()))}))


def test_one_column_for_two_classes(save):
    p, labels = np.array([0.9, 0.2, 1e-20, 0.6, 1.0]), np.array([1, 0, 0, 0, 1])
    found = report(save({"id": list("abcde"), "label": labels, "p": p}))
    exact = (-np.log(0.9) - np.log1p(-0.2) + 1e-20 - np.log1p(-0.6)) / 5
    assert found.loss.mean == pytest.approx(exact, rel=1e-14)
    assert report(save({"label": [0], "p": [1e-20]})).loss.mean == pytest.approx(1e-20, rel=1e-14)
    assert [row.id for row in found.worst] == ["d"]
    assert found.worst[0].prediction_probability == pytest.approx(0.6, rel=1e-14)
    logit = np.log(p[:2]) - np.log1p(-p[:2])
    binary = report(save({"label": labels[:2], "logit": logit}))
    assert binary.loss.mean == pytest.approx((-np.log(0.9) - np.log1p(-0.2)) / 2, rel=1e-14)
    logs = report(save({"label": labels[:2], "log_prob": np.log(p[:2])}))
    assert logs.loss.mean == pytest.approx(binary.loss.mean, rel=1e-14)
    assert report(save({"label": [True, False], "p": [0.9, 0.2]})).loss.mean == pytest.approx(binary.loss.mean)
    with pytest.raises(PredictionError, match=r"row 1 .*1.5 in column 'p' is not a probability"):
        report(save({"label": [0, 1], "p": [0.5, 1.5]}))


# one clear line ----------------------------------------------------------------------------------------------------

GOOD = {"id": ["a", "b", "c"], "label": ["x", "y", "x"], "p_x": [0.5, 0.25, 0.75], "p_y": [0.5, 0.75, 0.25]}


@pytest.mark.parametrize("format", ["p.parquet", "p.csv", "p.arrow"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p_x": [0.5, 0.25, 1.0000001]}, "row 2 .*id 'c': 1.0000001 in column 'p_x' is not a probability"),
        ({"p_y": [0.5, -1e-300, 0.25]}, "row 1 .*id 'b': -1e-300 in column 'p_y' is not a probability"),
        ({"p_x": [float("inf"), 0.25, 0.75]}, "row 0 .*id 'a': inf in column 'p_x'"),
        ({"p_y": [0.5, None, 0.25]}, "row 1 .*id 'b': the value in column 'p_y' is missing"),
        ({"label": ["x", "y", "zebra"]}, "row 2 .*id 'c': label 'zebra' is no class: the classes are 'x', 'y'"),
        ({"label": ["0", "1", "2"]}, "row 2 .*id 'c': label '2' is no class"),
        ({"label": ["x", "x", "1"]}, "row 2 .*id 'c': label '1' can only be the pos.* 'x' in row 0 only the name"),
        ({"weight": [1.0, -2.0, 1.0]}, "row 1 .*id 'b': weight -2.0 is not 0 or a number"),
        ({"weight": [0.0, 0.0, 0.0]}, "all 3 rows have weight 0"),
        ({"p_x": ["a", "b", "c"]}, "'p_x' is called alike and holds text"),
    ],
)
def test_bad_rows_are_named(save, format, change, message):
    with pytest.raises(PredictionError, match=message) as caught:
        report(save(GOOD | change, format))
    assert format in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [[{"a": 1}, {"a": 2}, {"a": 1}], [[1], [2], [1]]])
def test_columns_of_types_without_text_are_refused(save, values, run, tmp_path):
    path = save(GOOD | {"odd": pa.array(values)}, "p.arrow")
    for options in (("--label", "odd"), ("--by", "odd"), ("--group", "odd")):
        status, _, err = run("report", path, *options)
        assert status == 1
        assert err.count("\n") == 1
        assert "mistake in crossentropy" not in err
    assert report(path, id="odd").loss.rows == 3  # an id is only ever shown
    for call in (("compare", path, path, "--id", "odd"), ("rows", path, "--id", "odd", "--output", tmp_path / "r.csv")):
        status, _, err = run(*call)
        assert status == 1
        assert "mistake in crossentropy" not in err


def test_weights_whose_powers_no_float_holds_are_refused(save):
    for weight in (1e-300, 1e300):
        with pytest.raises(PredictionError, match=r"row 1 .*is not 0 or a number from 1e-50 to 1e\+50"):
            report(save(GOOD | {"weight": [1.0, weight, 1.0]}))


def test_nan_and_missing_labels(save):
    with pytest.raises(PredictionError, match=r"row 2 .*the value in column 'p_x' is NaN"):
        report(save(GOOD | {"p_x": [0.5, 0.25, float("nan")]}))
    for labels in (pa.array(["x", None, "x"]), pa.array(["x", None, "x"]).dictionary_encode()):
        with pytest.raises(PredictionError, match=r"row 1 .*the label is missing"):
            report(save(GOOD | {"label": labels}))
    labels = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0]), pa.array(["x", None]))
    with pytest.raises(PredictionError, match=r"row 1 .*the label is missing"):
        report(save(GOOD | {"label": labels}, "p.arrow"))


def test_a_column_without_a_number(tmp_path, save):
    for text, message in {
        "id,label,p_cat,p_dog\nr1,cat,nan,0.1\n": r"row 0 .*id 'r1': the value in column 'p_cat' is NaN",
        "id,label,p_cat,p_dog\nr1,cat,,0.1\nr2,cat,,1\n": r"row 0 .*id 'r1': the value in column 'p_cat' is missing",
        "label,p_a,p_b\na,NaN,NaN\n": r"row 0 .*the value in column 'p_a' is NaN",
        "label;p_a;p_b\na;0,5;0,5\n": r"'p_a', 'p_b' are called like them and hold text, not numbers \(a comma for the",
        "label,p_a,p_b\na,50%,50%\n": r"'p_a', 'p_b' are called like them and hold text",
        "label,weight,p_a,p_b\na,,1,0\n": r"column 'weight' is meant to hold weights and holds nothing",
    }.items():
        (tmp_path / "p.csv").write_text(text)
        with pytest.raises(PredictionError, match=message):
            report(tmp_path / "p.csv")
    for values, name in ((pa.nulls(3), "p.parquet"), (pa.nulls(3), "p.arrow")):
        with pytest.raises(PredictionError, match=r"row 0 .*the value in column 'p_y' is missing"):
            report(save(GOOD | {"p_y": values}, name))


@pytest.mark.parametrize("name", ["p.csv", "p.arrow"])
def test_nothing_of_a_row_of_weight_0_is_looked_at(save, name):
    good = {"label": ["x", "y"], "weight": [1.0, 3.0], "p_x": [0.5, 0.25], "p_y": [0.5, 0.75]}
    expected = report(save(good, name)).loss
    for change in (
        {"label": "cow"},
        {"label": None},
        {"label": "1"},
        {"p_x": None},
        {"p_y": 7.0},
        {"p_x": float("nan")},
    ):
        row = {"label": "x", "weight": 0.0, "p_x": 0.5, "p_y": 0.5} | change
        columns = {key: [values[0], row[key], values[1]] for key, values in good.items()}
        found = report(save(columns, name))
        assert (found.loss, found.ignored) == (expected, 1)
        worst = report(save(columns | {"label": ["x", row["label"], "x"]}, name)).worst
        assert [shown.row for shown in worst] == [2]
        with pytest.raises(PredictionError, match=r"row 2 .*2.0 in column 'p_x'"):
            report(save(columns | {"p_x": [0.5, row["p_x"], 2.0]}, name))
        with pytest.raises(PredictionError, match=r"row 2 .*id 'c': label 'cow' is no class"):
            report(save({"id": ["a", "b", "c"]} | columns | {"label": ["x", row["label"], "cow"]}, name))


def test_lists_and_single_columns_of_weight_0():
    lists = pa.array([[0.5, 0.5], None, [0.2, 0.8]], pa.list_(pa.float64()))
    table = pa.table({"label": [0, 5, 1], "weight": [1.0, 0.0, 1.0], "probs": lists})
    assert report(table).loss.mean == pytest.approx(-(np.log(0.5) + np.log(0.8)) / 2, rel=1e-14)
    table = pa.table({"label": [0, 5, 1], "weight": [1.0, 0.0, 1.0], "p": [0.5, 9.0, 0.8]})
    assert report(table).loss.mean == pytest.approx(-(np.log(0.5) + np.log(0.8)) / 2, rel=1e-14)


def test_a_rule_for_labels_holds_over_all_batches(save, monkeypatch):
    monkeypatch.setattr("crossentropy.evaluation.formats.BATCH_VALUES", 3)
    third = {"p_1": [0.5, 0.2, 0.1], "p_2": [0.3, 0.2, 0.1], "p_3": [0.2, 0.6, 0.8]}
    path = save({"label": ["0", "3", "3"]} | third)
    with pytest.raises(PredictionError, match=r"row 1 .*'3' can only be the name .* '0' in row 0 only the position"):
        report(path)
    by_position = read_predictions(save({"label": ["0", "0", "0"]} | third))
    assert [sum(batch.rows for batch in by_position) for _ in range(2)] == [3, 3]  # each reading starts anew


@pytest.mark.parametrize("value", [{"a": 1}, ["a", "b"]])
def test_columns_whose_values_are_no_names(save, value):
    with pytest.raises(PredictionError, match=r"the labels are of type (struct|list).*; numbers or texts are needed"):
        report(save(GOOD | {"label": [value] * 3}))
    for option in ({"group": "more"}, {"by": ["more"]}):
        with pytest.raises(PredictionError, match=r"the values of column 'more' are of type (struct|list)"):
            report(save(GOOD | {"more": [value] * 3}), **option)


def test_integers_that_no_float_holds(save):
    weighted = report(save(GOOD | {"weight": pa.array([2**64 - 1, 2**63 + 1, 1], pa.uint64())}))
    assert weighted.loss.weight == 1.5 * 2.0**64


def test_rows_are_counted_over_all_batches(save, monkeypatch):
    monkeypatch.setattr("crossentropy.evaluation.formats.BATCH_VALUES", 4)
    with pytest.raises(PredictionError, match=r"row 2 .*id 'c'"):
        report(save(GOOD | {"p_x": [0.5, 0.25, 2.0]}))


def test_files_that_are_not_predictions(tmp_path, save):
    path = tmp_path / "p.parquet"
    for content, message in {
        b"": "the file is empty",
        b"PAR1 and then nothing": "not readable as Parquet",
        b"no parquet at all": "not what its name says",
        b"ARROW1\0\0 and then nothing": "not readable as Arrow IPC",
        b"\x93NUMPY and then nothing": "not readable as NPY",
    }.items():
        path.write_bytes(content)
        with pytest.raises(PredictionError, match=message):
            report(path)
    with pytest.raises(PredictionError, match=r"no such file"):
        report(tmp_path / "absent.csv")
    for text, message in {
        "label,p_a,p_b\n": "there are no rows",
        "label,p_a,p_a\na,0.5,0.5\n": "two columns are named 'p_a'",
        "label,p_a,p_b\na,0.5\n": "not readable as CSV: CSV parse error",
        "label,p_a,p_b\na,0.5,half\n": "not readable as CSV|'p_b'",
    }.items():
        (tmp_path / "p.csv").write_text(text)
        with pytest.raises(PredictionError, match=message):
            report(tmp_path / "p.csv")
    empty = pa.schema([("label", pa.string()), ("p_a", pa.float64()), ("p_b", pa.float64())]).empty_table()
    with pytest.raises(PredictionError, match=r"there are no rows"):
        report(save(empty.to_pydict() | {name: empty[name] for name in empty.column_names}))


def test_truncated_files(save, columns, tmp_path):
    np.save(tmp_path / "y.npy", np.zeros(100, int))
    np.save(tmp_path / "p.npy", np.full((100, 2), 0.5))
    for path in [save(columns, "p.parquet"), save(columns, "p.arrow"), tmp_path / "p.npy"]:
        content = path.read_bytes()
        for size in range(0, len(content) - 8, 97):
            path.write_bytes(content[:size])
            with pytest.raises(PredictionError):
                report(path, labels=tmp_path / "y.npy" if path.suffix == ".npy" else None)


def test_npy_files_that_cannot_be_read_say_so_before_they_ask_for_labels(tmp_path):
    np.savez(tmp_path / "p.npz", p=np.full((2, 2), 0.5))
    with pytest.raises(PredictionError, match=r"an NPZ archive holds several arrays"):
        report(tmp_path / "p.npz")
    np.save(tmp_path / "p.npy", np.full((200, 2), 0.5))
    (tmp_path / "p.npy").write_bytes((tmp_path / "p.npy").read_bytes()[:1000])
    with pytest.raises(PredictionError, match=r"not readable as NPY"):
        report(tmp_path / "p.npy")


def test_npy_that_does_not_fit(tmp_path):
    probabilities, labels = tmp_path / "p.npy", tmp_path / "y.npy"

    def refuse(p, y, message):
        np.save(probabilities, p)
        np.save(labels, y)
        with pytest.raises(PredictionError, match=message):
            report(probabilities, labels=labels)

    half = np.full((3, 2), 0.5)
    refuse(half, np.zeros(4, int), "4 labels for the 3 rows")
    refuse(half, np.zeros((3, 1), int), "must have shape \\(3,\\), .*, not \\(3, 1\\); drop the last axis")
    refuse(half[None], np.zeros(3, int), r"of shape \(rows, classes\), or .*, not float64 of shape \(1, 3, 2\)")
    refuse(np.eye(3, dtype=int), np.zeros(3, int), "floating numbers .* not int64")
    refuse(half, np.array([0, 1, 2]), "row 2 .*label 2 is no class")
    refuse(half, np.zeros(3, complex), "complex128 are neither names nor positions")
    refuse(np.full((0, 2), 0.5), np.zeros(0, int), "no rows")
    np.save(labels, np.array([{}, {}, {}]), allow_pickle=True)
    with pytest.raises(PredictionError, match=r"y.npy: not readable as NPY"):
        report(probabilities, labels=labels)
    with pytest.raises(PredictionError, match=r"so label has no meaning"):
        report(probabilities, label="y")


def test_labels_option_is_for_arrays(save):
    with pytest.raises(PredictionError, match=r"one of its columns"):
        report(save(GOOD), labels="y.npy")


@pytest.mark.parametrize("format", ["p.parquet", "p.csv", "p.arrow"])
@pytest.mark.parametrize(
    ("columns", "loss"),
    [
        ({"label": ["x"], "p_x": [0.25], "p_y": [0.75]}, -np.log(0.25)),  # one row
        ({"label": ["x"], "p_x": [1.0], "p_y": [-0.0]}, 0.0),
        ({"label": ["y"], "p_x": [1.0], "p_y": [5e-324]}, 1074 * np.log(2)),  # the smallest denormal number
        ({"label": ["日本", "ä b"], "p_日本": [0.5, 0.5], "p_ä b": [0.5, 0.5]}, np.log(2)),
        ({"id": ["same", "same"], "label": ["x", "y"], "p_x": [0.5, 0.5], "p_y": [0.5, 0.5]}, np.log(2)),
        ({"label": ["x"] * 3, "p_x": [0.5] * 3, "p_y": [0.5] * 3, "weight": [1e-50, 1e50, 0.0]}, np.log(2)),
    ],
)
def test_odd_tables_have_a_right_answer(save, format, columns, loss):
    found = report(save(columns, format))
    assert found.loss.mean == pytest.approx(loss, rel=1e-14)
    assert found.text()
    assert found.to_json()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_end_in_a_result_or_one_line(data, save):
    """Flip bytes anywhere in a good file: the reader answers or refuses, and never breaks in another way."""
    format = data.draw(st.sampled_from(["p.csv", "p.parquet", "p.arrow", "p.stream"]))
    path = save(GOOD, format)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        answer = report(path).source
    except PredictionError as error:
        answer = str(error)
    assert answer.startswith(str(path))


def test_the_command_line_starts_without_the_heavy_packages():
    loaded = "import sys; from crossentropy.evaluation import cli; cli.parser(); "
    loaded += "assert not {'pyarrow', 'rich', 'sklearn', 'matplotlib'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", loaded], check=True)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
@pytest.mark.parametrize("inputs", ["probs", "log_probs", "logits"])
def test_an_array_with_one_number_per_row_is_of_class_1(tmp_path, shape, inputs):
    p, labels = np.array([0.1, 0.9, 0.3, 0.5]), np.array([False, True, True, False])
    values = {"probs": p, "log_probs": np.log(p), "logits": np.log(p / (1 - p))}[inputs].reshape(shape)
    expected = -np.log(np.where(labels, p, 1 - p)).mean()
    found = report(values, labels=labels, inputs=inputs)
    assert found.classes == ("0", "1")
    assert found.loss.mean == pytest.approx(expected, rel=1e-14)
    np.save(tmp_path / "p.npy", values)
    np.save(tmp_path / "y.npy", labels.astype(int))
    assert report(tmp_path / "p.npy", labels=tmp_path / "y.npy", inputs=inputs).loss == found.loss
    with pytest.raises(PredictionError, match=r"several labels per row need predictions of several classes"):
        report(values, labels=labels, inputs=inputs, multi_label=True)


def test_one_number_per_row_that_is_no_probability_is_named():
    with pytest.raises(PredictionError, match=r"array: row 1 .*1\.5 is not a probability"):
        report(np.array([0.5, 1.5]), labels=[0, 1])


def test_true_and_false_are_one_and_zero_in_every_format(save):
    columns = {"y": [False, True, True], "p": [0.1, 0.8, 0.5]}
    for name in ("p.parquet", "p.csv", "p.arrow"):
        assert report(save(columns, name)).loss.mean == pytest.approx(-np.log([0.9, 0.8, 0.5]).mean(), rel=1e-14)


def test_categories_of_polars():
    polars = pytest.importorskip("polars", reason="reads a Polars table")
    names = polars.Enum(["x", "y"])
    columns = {"label": ["x", "y", None], "kind": ["y", None, "x"], "id": ["x", "y", "x"]}
    table = polars.DataFrame({name: polars.Series(values, dtype=names) for name, values in columns.items()})
    table = table.with_columns(p_x=0.5, p_y=0.5, weight=polars.Series([1.0, 1.0, 0.0]))
    found = report(table, by="kind", group="kind")
    assert found.loss.mean == pytest.approx(np.log(2), rel=1e-15)
    assert [part.name for part in found.slices["kind"]] == ["(missing)", "y"]
    with pytest.raises(PredictionError, match=r"LazyFrame: a query that has not run yet; call \.collect\(\)"):
        report(table.lazy())


@pytest.mark.parametrize("inputs", ["logits", "log_probs"])
def test_losses_whose_powers_no_float_holds_are_refused(inputs):
    values, labels = np.array([[0.0, -1.0, -1.7e308]] * 20), [0, 1] * 10
    assert np.isfinite(report(values, labels=labels, inputs=inputs).loss.interval).all()  # nobody lost it
    with pytest.raises(PredictionError, match=r"array: row 1 .*: a loss of 1\.7e\+308 nats"):
        report(values, labels=[0, 2] * 10, inputs=inputs)


def test_the_largest_losses_and_weights_have_an_interval(save):
    values = {"label": [0, 1] * 20, "logit_0": [1e50, 0.5] * 20, "logit_1": [0.0, 1e50] * 20, "weight": [1e50] * 40}
    values["label"][3] = 0
    found = report(save(values), by="label")
    assert np.isfinite(found.loss.interval).all()
    assert found.loss.mean == pytest.approx(1e50 / 40, rel=1e-12)


def test_no_rows_at_all():
    for worst in (None, 3):
        with pytest.raises(PredictionError, match=r"array: there are no rows"):
            rows(np.zeros((0, 2)), labels=np.zeros(0, int), worst=worst)
        with pytest.raises(PredictionError, match=r"Table: there are no rows"):
            language_model_rows(pa.table({"log_prob": pa.array([], pa.float64())}), worst=worst)
