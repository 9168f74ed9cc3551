"""Loss per token and per byte, perplexity, and the intervals of ratios."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossentropy.evaluation import (
    Categories,
    Evaluation,
    LanguageModelEvaluation,
    PredictionError,
    TextBatch,
    language_model_report,
)

from .test_report import same_sums


def texts(rows=200, seed=0):
    generator = np.random.default_rng(seed)
    tokens = generator.integers(1, 50, rows)
    return {
        "id": [f"t{i}" for i in range(rows)],
        "log_prob": -generator.gamma(2.0, 1.5, rows) * tokens,
        "num_tokens": tokens,
        "num_bytes": tokens * 4 + generator.integers(0, 5, rows),
        "site": generator.integers(0, 3, rows),
    }


def test_numbers_by_hand(save):
    columns = texts()
    found = language_model_report(save(columns), by=["site"])
    loss, tokens, size = -columns["log_prob"], columns["num_tokens"], columns["num_bytes"]
    assert found.per["rows"].mean == pytest.approx(loss.mean(), rel=1e-13)
    assert found.per["tokens"].mean == pytest.approx(loss.sum() / tokens.sum(), rel=1e-13)
    assert found.perplexity == pytest.approx(math.exp(loss.sum() / tokens.sum()), rel=1e-12)
    assert found.bits_per_byte == pytest.approx(loss.sum() / size.sum() / math.log(2), rel=1e-13)
    assert found.totals == {"rows": 200, "tokens": tokens.sum(), "bytes": size.sum()}
    d = loss - tokens * (loss.sum() / tokens.sum())  # the rows are the independent units of the ratio
    error = math.sqrt((d**2).sum() * 200 / 199) / tokens.sum()
    assert found.per["tokens"].spread.standard_error == pytest.approx(error, rel=1e-10)
    assert [text.id for text in found.worst] == [f"t{i}" for i in np.argsort(-loss / tokens)[:10]]
    for part in found.slices["site"]:
        rows = columns["site"] == int(part.name)
        assert part.loss.mean == pytest.approx(loss[rows].sum() / tokens[rows].sum(), rel=1e-12)
        assert part.share == pytest.approx(loss[rows].sum() / loss.sum(), rel=1e-12)


def test_clusters_weights_and_rows_without_weight(save):
    columns = texts()
    weight = (np.arange(200) % 5).astype(float)
    user = np.arange(200) // 8
    found = language_model_report(save({**columns, "weight": weight, "user": user}), group="user")
    loss, tokens = -columns["log_prob"], columns["num_tokens"]
    mean = (weight * loss).sum() / (weight * tokens).sum()
    assert found.per["tokens"].mean == pytest.approx(mean, rel=1e-12)
    assert found.per["rows"].rows == 160
    sums = np.bincount(user, weight * (loss - mean * tokens))
    error = math.sqrt((sums**2).sum() * 25 / 24) / (weight * tokens).sum()
    assert found.per["tokens"].spread.standard_error == pytest.approx(error, rel=1e-10)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 80), max_size=3), st.integers(0, 2**32))
def test_merge_of_any_split_is_the_whole(cuts, seed):
    columns = texts(80, seed)
    columns["log_prob"][seed % 80] = -np.inf

    def part(start, stop):
        rows = slice(start, stop)
        counts = {"tokens": columns["num_tokens"][rows].astype(float)}
        return LanguageModelEvaluation.empty(4).update(
            TextBatch(columns["log_prob"][rows], counts, ids=columns["id"][rows])
        )

    cuts = sorted(cuts)
    merged = LanguageModelEvaluation.empty(4)
    for start, stop in zip([0, *cuts], [*cuts, 80], strict=True):
        merged = merged.merge(part(start, stop))
    same_sums(merged, part(0, 80))
    assert merged.result().per["rows"].infinite == 1


def test_a_state_of_texts_survives_as_bytes():
    columns = texts()
    weights, codes = np.arange(200) % 3 * 1.0, np.arange(200) // 8
    groups = Categories(codes, tuple(map(str, range(25))))
    counts = {"tokens": columns["num_tokens"].astype(float)}
    batch = TextBatch(columns["log_prob"], counts, columns["id"], weights, groups, {"site": groups})
    state = LanguageModelEvaluation.empty(3).update(batch)
    again = LanguageModelEvaluation.from_bytes(state.to_bytes())
    same_sums(again, state)
    assert again.merge(state).result() == state.merge(state).result()
    with pytest.raises(ValueError, match="damaged or of another version"):
        LanguageModelEvaluation.from_bytes(state.to_bytes()[:-9])
    with pytest.raises(ValueError, match=r"."):
        Evaluation.from_bytes(state.to_bytes())


def test_without_counts_there_is_the_loss_per_row_alone(save):
    found = language_model_report(save({"logprob": [-1.0, -3.0]}))
    assert set(found.per) == {"rows"}
    assert found.per["rows"].mean == 2.0
    assert found.perplexity is None
    assert found.bits_per_byte is None
    assert "Perplexity" not in found.text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_prob": [-1.0, 0.5]}, r"row 1 .*id 'b': 0.5 in column 'log_prob' is not the logarithm"),
        ({"log_prob": [float("nan"), -1.0]}, r"row 0 .*nan in column 'log_prob'"),
        ({"log_prob": [-1.0, -1e300]}, r"row 1 .*id 'b': -1e\+300 in column 'log_prob' is not the logarithm"),
        ({"tokens": [1, 0]}, r"row 1 .*0.0 in column 'tokens' is not a number of tokens"),
        ({"bytes": ["x", "y"]}, r"'bytes' is meant to hold numbers, not text"),
        ({"weight": [0.0, 0.0]}, r"all 2 rows have weight 0"),
        ({"logprob": [-1.0, -1.0]}, r"log_prob could be 'log_prob' or 'logprob'"),
    ],
)
def test_bad_texts_are_named(save, change, message):
    with pytest.raises(PredictionError, match=message):
        language_model_report(save({"id": ["a", "b"], "log_prob": [-1.0, -2.0], **change}))


def test_nothing_of_a_text_of_weight_0_is_looked_at(save):
    columns = {"log_prob": [-1.0, 7.0, None, -3.0], "tokens": [2, 0, None, 2], "weight": [1.0, 0.0, 0.0, 1.0]}
    found = language_model_report(save(columns))
    assert (found.per["rows"].rows, found.per["tokens"].mean) == (2, 1.0)
    with pytest.raises(PredictionError, match=r"row 3 .*5\.0 in column 'log_prob'"):
        language_model_report(save({**columns, "log_prob": [-1.0, 7.0, None, 5.0]}))


def test_columns_that_are_missing(save):
    with pytest.raises(PredictionError, match=r"no column of log-probabilities among 'x'"):
        language_model_report(save({"x": [1.0]}))
    with pytest.raises(PredictionError, match=r"no tokens column 'tokns'; was 'tokens' meant"):
        language_model_report(save({"log_prob": [-1.0], "tokens": [1]}), tokens="tokns")


def test_command_line(save, run, run_json):
    columns = texts()
    path = save({**columns, "score": columns["log_prob"]})
    status, text, _ = run("report", path, "--language-model", "--by", "site")
    assert status == 0
    numbers = run_json("report", path, "--log-prob", "score", "--tokens", "num_tokens")
    assert f"{numbers['perplexity']:#.6g}, " in text
    assert f"{numbers['bits_per_byte']:#.6g}" in text
    assert "Loss per token by site" in text
    assert max(map(len, (line for line in text.splitlines() if str(path) not in line))) <= 80
