"""Two language models on the same texts, and the loss of every text."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest

from crossentropy.evaluation import PredictionError, compare_language_models, language_model_rows

from .test_language_model import texts


def two_models(seed=0):
    a = texts(seed=seed)
    factor = np.random.default_rng(seed + 1).normal(0.95, 0.1, 200).clip(0.5)
    return a, {**a, "log_prob": a["log_prob"] * factor}


def test_the_difference_per_token_and_per_byte_by_hand():
    a, b = two_models()
    found = compare_language_models(pa.table(a), pa.table(b), by=["site"])
    d, tokens, size = a["log_prob"] - b["log_prob"], a["num_tokens"], a["num_bytes"]
    mean = d.sum() / tokens.sum()
    assert found.unit == "token"
    assert found.difference.mean == pytest.approx(mean, rel=1e-12)
    assert found.loss_a == pytest.approx(-a["log_prob"].sum() / tokens.sum(), rel=1e-12)
    error = math.sqrt(((d - mean * tokens) ** 2).sum() * 200 / 199) / tokens.sum()
    assert found.difference.spread.standard_error == pytest.approx(error, rel=1e-10)
    assert found.difference.probability_ratio == pytest.approx(math.exp(-mean), rel=1e-12)
    assert found.difference.win_rate == (d < 0).mean()
    assert found.per["byte"].mean == pytest.approx(d.sum() / size.sum(), rel=1e-12)
    assert found.per["row"].mean == pytest.approx(d.mean(), rel=1e-12)
    assert [row.id for row in found.better] == [f"t{i}" for i in np.argsort(d / tokens)[:5]]
    for part in found.slices["site"]:
        rows = a["site"] == int(part.name)
        assert part.difference.mean == pytest.approx(d[rows].sum() / tokens[rows].sum(), rel=1e-12)


def test_clusters_and_weights():
    a, b = two_models()
    weight, user = (np.arange(200) % 5).astype(float), np.arange(200) // 8
    found = compare_language_models(pa.table({**a, "weight": weight, "user": user}), pa.table(b), group="user")
    d, tokens = a["log_prob"] - b["log_prob"], a["num_tokens"]
    mean = (weight * d).sum() / (weight * tokens).sum()
    assert found.difference.mean == pytest.approx(mean, rel=1e-12)
    assert (found.clusters, found.difference.rows) == (25, 160)
    sums = np.bincount(user, weight * (d - mean * tokens))
    error = math.sqrt((sums**2).sum() * 25 / 24) / (weight * tokens).sum()
    assert found.difference.spread.standard_error == pytest.approx(error, rel=1e-10)


def test_texts_are_aligned_by_id_or_by_their_counts():
    a, b = two_models()
    order = pa.array(np.random.default_rng(5).permutation(200))
    straight = compare_language_models(pa.table(a), pa.table(b))
    turned = compare_language_models(pa.table(a), pa.table(b).take(order).slice(1))
    assert turned.unmatched_a == 1
    assert turned.alignment == "rows aligned by id"
    by_count = compare_language_models(pa.table(a).drop(["id"]), pa.table(b).drop(["id"]))
    assert by_count.alignment == "the same numbers of tokens and bytes in the same order"
    assert by_count.difference == straight.difference


def test_other_tokens_are_compared_per_byte():
    a, b = two_models()
    b["num_tokens"] = b["num_tokens"] + 1
    found = compare_language_models(pa.table(a), pa.table(b))
    assert found.unit == "byte"
    assert "the models count other tokens" in found.alignment
    without = compare_language_models(pa.table(a).drop(["num_bytes"]), pa.table(b))
    assert without.unit == "row"
    assert without.difference.mean == pytest.approx((a["log_prob"] - b["log_prob"]).mean(), rel=1e-12)


def test_texts_that_are_not_the_same_are_refused():
    a, b = (pa.table(columns) for columns in two_models())
    other = b.set_column(3, "num_bytes", pa.array(np.arange(200) + 1))
    with pytest.raises(PredictionError, match=r"row 0 .*id 't0' has .* bytes and .*row 0 .*id 't0' 1: these are not"):
        compare_language_models(a, other)
    counts = ["id", "num_tokens", "num_bytes"]
    with pytest.raises(PredictionError, match=r"nothing shows that .* hold the same texts"):
        compare_language_models(a.drop(counts), b.drop(counts))
    with pytest.raises(PredictionError, match=r"200 rows and .* 199, and no id aligns them"):
        compare_language_models(a, b.drop(["id"]).slice(1))


def test_an_enormous_difference_is_no_overflow():
    a = pa.table({"id": ["a", "b"], "log_prob": [-2000.0, -1.0]})
    b = pa.table({"id": ["a", "b"], "log_prob": [-1.0, -1.0]})
    assert compare_language_models(a, b).difference.probability_ratio == math.inf
    assert compare_language_models(b, a).difference.probability_ratio == 0
    assert "inf times" in compare_language_models(a, b).text()


def test_an_impossible_text_is_an_infinite_difference():
    a, b = two_models()
    b["log_prob"][3] = -np.inf
    found = compare_language_models(pa.table(a), pa.table(b))
    assert found.difference.mean == math.inf
    assert found.difference.infinite_b == 1
    assert found.worse[0].id == "t3"


def test_command_line(save, run, run_json):
    a, b = two_models()
    files = save(a, "a.parquet"), save(b, "b.csv")
    numbers = run_json("compare", *files, "--language-model")
    status, text, _ = run("compare", *files, "--tokens", "num_tokens", "--by", "site", "--fail-if-worse-than", "0")
    assert status == 0
    assert f"{numbers['difference']['nats']:#.6g} nats per token" in text
    assert f"perplexity of B: {math.exp(numbers['difference']['nats']):#.4g} times that of A" in text
    assert set(numbers["difference_per"]) == {"token", "byte", "row"}
    assert run("compare", *files[::-1], "--language-model", "--fail-if-worse-than", "0")[0] == 3
    for option in (["--label", "x"], ["--inputs", "logits"], ["--html", "x"], ["--multi-label"]):
        status, _, error = run("compare", *files, "--language-model", *option)
        assert (status, error.count("\n")) == (2, 1)
        assert f"{option[0]} is for predictions of classes" in error


def test_rows_of_texts(save, run, tmp_path):
    a = {**texts(), "weight": [0.0, *[1.0] * 199]}
    table = language_model_rows(pa.table(a))
    loss = -a["log_prob"][1:]
    assert table.column_names == ["row", "id", "loss", "tokens", "nats_per_token", "bytes", "bits_per_byte"]
    assert table["row"].to_pylist() == list(range(1, 200))
    np.testing.assert_array_equal(table["loss"], loss)
    np.testing.assert_allclose(table["nats_per_token"], loss / a["num_tokens"][1:], rtol=1e-15)
    np.testing.assert_allclose(table["bits_per_byte"], loss / a["num_bytes"][1:] / math.log(2), rtol=1e-15)
    worst = language_model_rows(pa.table(a), worst=4)
    assert worst["row"].to_pylist() == (1 + np.argsort(-loss / a["num_tokens"][1:])[:4]).tolist()
    file = save(a)
    status, text, _ = run("rows", file, "--language-model", "--worst", "2", "--output", tmp_path / "rows.csv")
    assert (status, text) == (0, "")
    assert (tmp_path / "rows.csv").read_text().splitlines()[1].startswith(f'{worst["row"][0]},"t{worst["row"][0]}"')
    assert run("rows", file, "--language-model", "--label-errors")[0] == 2


def test_notebook_and_table_forms():
    a, b = two_models()
    found = compare_language_models(pa.table(a), pa.table(b), by="site")
    assert "nats per token" in found._repr_html_()
    assert found.to_arrow()["by"].to_pylist() == ["site"] * 3
    assert json.loads(found.to_json())["unit"] == "token"
