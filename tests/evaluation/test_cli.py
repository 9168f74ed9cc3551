"""The command line: exit status, one line per error, never a traceback."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

import crossentropy
from crossentropy.evaluation import cli

from .conftest import as_columns, softmax_rows

GOOD = {"label": ["x", "y"], "p_x": [0.5, 0.25], "p_y": [0.5, 0.75]}


@pytest.mark.parametrize(
    "columns",
    [
        {"p_x": [0.5], "p_y": [0.5]},
        {"label": ["z"], "p_x": [0.5], "p_y": [0.5]},
        {"label": ["x"], "p_x": [1.5], "p_y": [0.5]},
        {"label": ["x"], "p_x": [float("nan")], "p_y": [0.5]},
        {"label": ["a\nb"], "p_x": [0.5], "p_y": [0.5]},
        {"label": pa.array([], pa.string()), "p_x": pa.array([], pa.float64()), "p_y": pa.array([], pa.float64())},
    ],
)
def test_errors_are_one_line_and_a_status(run, save, columns):
    status, out, err = run("report", save(columns))
    assert status == 1
    assert out == ""
    assert err.startswith("crossentropy: error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_wrong_calls_have_status_2(run, save):
    assert run()[0] == 2
    assert run("report")[0] == 2
    assert run("report", save(GOOD), "--worst", "-1")[0] == 2
    assert run("report", save(GOOD), "--label-kind", "guess")[0] == 2


def test_names_before_the_file(run, run_json, save):
    path = save(GOOD)
    status, out, err = run("report", "--classes", "p_x", "p_y", path)
    assert (status, out) == (2, "")
    assert f"{str(path)!r} was read as a column; put the file first, or after --" in err
    assert "was read as a column" not in run("report")[2]
    expected = run_json("report", path)
    assert run_json("report", "--classes", "p_x", "--classes", "p_y", "--worst", "10", path) == expected
    status, out, _ = run("report", "--json", "--classes", "p_x", "p_y", "--", path)
    assert (status, json.loads(out)) == (0, expected)


def test_options_reach_the_reader(run_json, save):
    columns = {"k": ["r1", "r2"], "truth": [2, 1], "q_1": [0.1, 0.8], "q_2": [0.9, 0.2], "w": [1.0, 3.0], "y": [0, 0]}
    numbers = run_json(
        "report", save(columns), "--label", "truth", "--classes", "q_*", "--id", "k", "--weight", "w",
        "--label-kind", "name", "--worst", "1",
    )  # fmt: skip
    assert numbers["log_loss"]["nats"] == pytest.approx(-(np.log(0.9) + 3 * np.log(0.8)) / 4, rel=1e-14)
    assert numbers["classes"] == ["1", "2"]
    assert numbers["weight"] == 4
    assert numbers["confidently_wrong"] == []
    assert numbers["reading"][1] == "not used: 'y'"


@pytest.mark.parametrize("command", ["report", "compare", "rows"])
def test_progress_is_shown_on_a_terminal_alone(save, capfd, monkeypatch, tmp_path, command):
    path = str(save(GOOD))
    more = {"report": [], "compare": [path], "rows": ["--output", str(tmp_path / "rows.csv")]}[command]
    assert cli.main([command, path, *more]) == 0
    assert capfd.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    assert cli.main([command, path, *more]) == 0
    assert "reading" in capfd.readouterr().err


def test_worst_rows_can_be_more_or_none(run_json, save):
    probabilities, labels = softmax_rows(200, 3)
    path = save(as_columns(probabilities, labels))
    wrong = int((probabilities.argmax(axis=1) != labels).sum())
    assert len(run_json("report", path, "--worst", 1000)["confidently_wrong"]) == wrong > 10
    assert run_json("report", path, "--worst", 0)["confidently_wrong"] == []


def test_a_missing_package_is_named(run, save, monkeypatch):
    path = save(GOOD)
    monkeypatch.setitem(sys.modules, "crossentropy.evaluation.commands", None)
    monkeypatch.setattr(cli, "EXTRA", ("crossentropy",))
    status, _, err = run("report", path)
    assert status == 1
    assert "python -m pip install 'crossentropy[report]'" in err


def test_a_name_that_the_terminal_cannot_show(save, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert cli.main(["report", str(save({"label": ["ä"], "p_ä": [0.25], "p_日": [0.75]}))]) == 0
    text = out.buffer.getvalue().decode()
    assert r"\xe4" in text
    assert "Log loss" in text


@pytest.mark.skipif(sys.platform == "win32", reason="the redirections are those of a POSIX shell")
@pytest.mark.parametrize(
    ("redirection", "message"),
    [
        pytest.param(
            "> /dev/full",
            "the output cannot be written: No space left on device",
            marks=pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full"),
        ),
        (">&-", "there is no standard output to write to"),
    ],
)
@pytest.mark.parametrize("command", ["report {} ", "--version"])
def test_output_that_cannot_be_written(save, redirection, message, command):
    call = f"'{sys.executable}' -m crossentropy.evaluation.cli {command.format(save(GOOD))} {redirection}"
    ended = subprocess.run(["/bin/sh", "-c", call], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"crossentropy: error: {message}\n"


def test_version_is_that_of_the_package(run, monkeypatch):
    monkeypatch.setattr(crossentropy, "__version__", "9.9.9")
    assert run("--version")[:2] == (0, "crossentropy 9.9.9\n")


def test_the_package_runs_as_a_module(save):
    path = save(as_columns(*softmax_rows(20, 3, seed=6)))
    call = [sys.executable, "-m", "crossentropy", "report", str(path)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "20 rows, 3 classes" in done.stdout


def test_demo_trains_saves_and_reports(run, tmp_path):
    pytest.importorskip("sklearn", reason="the demo's digits come with scikit-learn, in the extra `report`")
    output = tmp_path / "predictions.parquet"
    status, out, err = run("demo", "--output", output)
    assert status == 0, err
    table = pyarrow.parquet.read_table(output)
    assert table.column_names == ["id", "label", *(f"p_{i}" for i in range(10))]
    assert table.num_rows == 450
    chosen = np.array([table[f"p_{label}"][row].as_py() for row, label in enumerate(table["label"].to_pylist())])
    assert f"{-np.log(chosen).mean():#.6g} nats per row" in out
    assert -np.log(chosen).mean() < 0.2
    assert "loss 0." in out
    assert "Most confidently wrong" in out


def test_demo_replaces_its_own_file(run, tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="the demo's digits come with scikit-learn, in the extra `report`")
    output = tmp_path / "predictions.parquet"
    contents = []
    for epochs in (1, 2):
        monkeypatch.setattr("crossentropy.evaluation.demo.EPOCHS", epochs)
        assert run("demo", "--output", output)[0] == 0
        contents.append(output.read_bytes())
    assert contents[0] != contents[1]


def test_demo_never_replaces_another_file(run, tmp_path, save):
    pytest.importorskip("sklearn", reason="the demo's digits come with scikit-learn, in the extra `report`")
    for path in (save(GOOD), tmp_path / "notes.txt"):
        path.touch()
        before = path.read_bytes()
        status, _, err = run("demo", "--output", path)
        assert status == 1
        assert "the demo did not write it" in err
        assert path.read_bytes() == before
    status, _, err = run("demo", "--output", tmp_path / "absent" / "p.parquet")
    assert status == 1
    assert "cannot be written" in err


def test_help_does_not_wait_for_numpy():
    program = (
        "import sys; from crossentropy.evaluation.cli import main\n"
        "try: main(['report', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(', '.join({'numpy', 'pyarrow', 'rich', 'scipy'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--multi-label" in done.stdout


@pytest.mark.parametrize(
    "call",
    [
        ["calibrate", "{}", "--save", "{}"],
        ["report", "{}", "--html", "{}"],
        ["report", "{other}", "--baseline", "{}", "--html", "{}"],
        ["compare", "{}", "{other}", "--html", "{}"],
        ["compare", "{other}", "{}", "--html", "{}"],
        ["rows", "{}", "--output", "{}"],
    ],
)
def test_no_command_writes_onto_what_it_reads(run, save, call):
    columns = as_columns(*softmax_rows(60, 3, seed=5))
    path, other = save(columns), save(columns, "other.parquet")
    before = path.read_bytes()
    link = path.with_name("link.parquet")
    link.symlink_to(path)
    for output in (path, link):
        *arguments, _ = [part.format(path, other=other) for part in call]
        status, _, error = run(*arguments, output)
        assert status == 1
        assert "this is the file that is read" in error
        assert path.read_bytes() == before
