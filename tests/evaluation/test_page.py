"""The page: its size for any data, its escaping, its words; opened in a browser by test_browser.py."""

import base64
import hashlib
import os
import re
import threading
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

pytest.importorskip("jinja2", reason="pages need the extra `report`")

from crossentropy.evaluation import Batch, PredictionError, compare, report
from crossentropy.evaluation.page import comparison_page, report_page
from crossentropy.evaluation.provenance import Provenance, SourceFile
from crossentropy.evaluation.reliability_diagram import ReliabilitySums
from crossentropy.evaluation.verdict import comparison_verdict, report_verdict

from .conftest import as_columns, pa, softmax_rows

# What stands in the data of somebody who means harm, or of somebody who does not know.
HOSTILE = [
    "<script>alert(1)</script>",
    '" onload="alert(1)',
    "'><img src=x onerror=alert(1)>",
    "x" * 10_000,
    "שלום עולם",
    "a\u202egpj.exe",
    "$\\frac{1}{0}$ & $x",
    "{{ 7 * 7 }}{% raw %}",
    "]]></svg><script>alert(2)</script>",
    "\x00\x1b[31m\n",
]


PROVENANCE = Provenance((SourceFile("array"),), {"crossentropy": "0.1.0"}, datetime(2030, 1, 2, tzinfo=UTC))


class Page(HTMLParser):
    """The elements, attributes and words of a page, as a browser's parser finds them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words, self._in = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        self._in.append(tag)

    def handle_endtag(self, tag):
        if tag in self._in:
            while self._in.pop() != tag:
                pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self._in[-1:]):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def hostile_table(rows=200, seed=31):
    generator = np.random.default_rng(seed)
    p = generator.dirichlet(np.ones(10) * 0.5, size=rows)
    labels = [HOSTILE[generator.choice(10, p=row)] for row in p]
    ids = [HOSTILE[i % 10] + str(i) for i in range(rows)]
    site = [HOSTILE[i] for i in generator.integers(10, size=rows)]
    columns = {"id": ids, "label": labels, HOSTILE[0] + "$": site}
    return pa.table(columns | {name: p[:, i] for i, name in enumerate(HOSTILE)})


def page_of(make, path, *arguments, **options):
    make(*arguments, html=path, **options)
    text = path.read_text("utf-8")
    assert path.stat().st_size < 300_000
    return text


# size --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "classes"), [(10, 3), (1, 2), (100_000, 3), (300, 10_000), (20_000, 200)])
def test_a_page_is_small_for_any_data(tmp_path, rows, classes):
    generator = np.random.default_rng(rows)
    p = generator.random((rows, classes), np.float32) ** 4
    p /= p.sum(axis=1, keepdims=True)
    labels = np.where(generator.random(rows) < 0.5, p.argmax(axis=1), generator.integers(classes, size=rows))
    text = page_of(report, tmp_path / "page.html", p, labels=labels, worst=1_000)
    assert f"{rows:,} row" in Page(text).text
    assert len(page_of(compare, tmp_path / "c.html", p, p[:, ::-1].copy(), labels=labels, moved=1_000)) < 300_000


def test_slices_and_long_names_do_not_make_it_large(tmp_path):
    # quotes take the most bytes when they are escaped
    generator, names = np.random.default_rng(1), [f"{i:02}{chr(34) * 5_000}{i:02}" for i in range(80)]
    p = generator.dirichlet(np.ones(80), size=3_000)
    labels = [names[i] for i in generator.integers(80, size=3_000)]
    slices = {f"slice {i} {'y' * 5_000}": [names[v] for v in generator.integers(80, size=3_000)] for i in range(12)}
    table = pa.table({"label": labels, "id": labels} | {name: p[:, i] for i, name in enumerate(names)} | slices)
    options = {"classes": names, "id": "id", "by": list(slices)}
    text = page_of(report, tmp_path / "page.html", table, worst=1_000, **options)
    assert "8 more columns" in text
    other = table.set_column(2, names[0], [table[names[0]].to_numpy() * 0.5])
    numbered = [t.set_column(1, "id", [[f"{i}{names[1]}" for i in range(3_000)]]) for t in (table, other)]
    page_of(compare, tmp_path / "c.html", *numbered, moved=1_000, **options)


# nothing from the data executes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["report", "compare"])
def test_what_stands_in_the_data_stays_text(tmp_path, kind):
    table = hostile_table()
    source = tmp_path / "<img src=x onerror=alert(3)>.parquet"
    pa.parquet.write_table(table, source.with_name("plain.parquet"))
    source = source.with_name("plain.parquet").rename(tmp_path / source.name)
    options = {"classes": HOSTILE, "by": [HOSTILE[0] + "$"]}
    if kind == "report":
        text = page_of(report, tmp_path / "page.html", source, **options)
    else:
        text = page_of(compare, tmp_path / "page.html", source, source, **options)
    page = Page(text)
    assert page.tags.count("script") == 1
    assert page.tags.count("img") == 0
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert not [value for _, _, value in page.attributes if value and re.match(r"\s*javascript:", value)]
    shown = "<script>alert(1)</script>", '" onload="alert(1)', "'><img src=x onerror=alert(1)>", "שלום עולם"
    for name in (*shown, r"a\u202egpj.exe", r"$\frac{1}{0}$ & $x", "{{ 7 * 7 }}{% raw %}", r"\x00\x1b[31m\n"):
        assert name in page.text
    assert "xxx...xxx" in page.text
    assert "x" * 100 not in text
    assert "\u202e" not in text


def test_the_policy_allows_the_pages_own_script_alone(tmp_path):
    probabilities, labels = softmax_rows(50, 3)
    text = page_of(report, tmp_path / "page.html", probabilities, labels=labels)
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}';" in policy
    assert "http://" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", text)  # nothing is loaded from anywhere
    assert "https://" not in text


# words -------------------------------------------------------------------------------------------------------------


def result(rows=4000, classes=3, power=1.0, seed=41, spread=2.0):
    probabilities, labels = softmax_rows(rows, classes, seed=seed, spread=spread)
    p = probabilities**power
    return p / p.sum(axis=1, keepdims=True), labels


def top_label(p, labels):
    (found,) = ReliabilitySums.empty(range(p.shape[1]), [None]).update(Batch(p, labels)).result()
    return found


def verdict_of(p, labels):
    return report_verdict(report(p, labels=labels), top_label(p, labels))


@pytest.mark.parametrize(
    ("make", "tone", "answer"),
    [
        (lambda: result(), "good", "Yes, on rows like these"),
        (lambda: result(power=3.0), "care", "Not as they are: over-confident"),
        (lambda: result(power=0.3), "care", "Not as they are: under-confident"),
        (lambda: result(power=1.35), "care", "Nearly: slightly over-confident"),
        (lambda: result(rows=5), "care", "Too few rows to tell"),
        (lambda: result(rows=60, spread=0.1), "care", "Not shown yet"),
        (lambda: (result()[0][:, ::-1], result()[1]), "bad", "No: worse than not looking"),
        (lambda: (np.vstack([np.eye(3)[[0]], result()[0][1:]]), np.r_[1, result()[1][1:]]), "bad", "No: it ruled out"),
    ],
)
def test_the_verdict_in_words(make, tone, answer):
    found = verdict_of(*make())
    assert found.tone == tone
    assert found.answer.startswith(answer)
    assert found.reason
    assert [card.question for card in found.answers] == [
        "How good?",
        "How sure is that?",
        "Where is it wrong?",
        "Over- or under-confident?",
    ]


def test_a_binary_model_that_is_off_in_places():
    # 20 % where 5 % happened and 80 % where 65 % did: as a whole it loses just what it expects to lose
    p = np.repeat([0.2, 0.8], 2000)
    labels = np.r_[np.arange(2000) < 100, np.arange(2000) < 1300].astype(int)
    p = np.stack([1 - p, p], axis=1)
    found = report(p, labels=labels)
    assert found.calibration.gap == pytest.approx(0, abs=1e-12)
    verdict = verdict_of(p, labels)
    assert (verdict.tone, verdict.answer) == ("care", "In part: off in places")
    assert "15." in verdict.reason


def test_few_rows_of_many_classes_are_not_held_against_their_own_frequencies():
    # 40 classes seen once or twice: their frequencies in these very rows would lose less than any honest model
    generator = np.random.default_rng(2)
    labels = generator.integers(40, size=60)
    p = np.full((60, 40), 0.5 / 39)
    p[np.arange(60), labels] = 0.5
    found = verdict_of(p, labels)
    assert "worse" not in found.answer
    assert "guessing alone" in " ".join(found.answers[0].sentences)


@pytest.mark.parametrize(
    ("change", "tone", "answer"),
    [
        (lambda p: p, "care", "No clear difference"),
        (lambda p: p**3 / (p**3).sum(axis=1, keepdims=True), "good", "A is better"),
    ],
)
def test_the_verdict_on_two_models(change, tone, answer):
    p, labels = result()
    found = comparison_verdict(compare(p, change(p), labels=labels))
    assert (found.tone, found.answer) == (tone, answer)
    if tone == "good":
        back = comparison_verdict(compare(change(p), p, labels=labels))
        assert back.answer == "B is better"
        assert "B loses" in back.reason


def test_infinities_decide_between_two_models():
    p, labels = result(rows=100)
    wrong = p.copy()
    wrong[0] = np.eye(3)[(labels[0] + 1) % 3]
    found = comparison_verdict(compare(p, wrong, labels=labels))
    assert found.answer.startswith("A is better")
    other = p.copy()
    other[1] = np.eye(3)[(labels[1] + 1) % 3]
    assert "both have infinite losses" in comparison_verdict(compare(other, wrong, labels=labels)).answer
    few = comparison_verdict(compare(p[:5], p[:5], labels=labels[:5]))
    assert few.answer == "Too few rows to tell"


def test_the_page_says_where_it_comes_from(tmp_path, save):
    probabilities, labels = softmax_rows(100, 3, seed=6)
    path = save(as_columns(probabilities, labels, "abc"))
    page = Page(page_of(report, tmp_path / "page.html", path)).text
    assert hashlib.sha256(path.read_bytes()).hexdigest() in page
    assert f"{path.stat().st_size:,} bytes" in page
    assert "3, in this order: a , b , c" in page
    assert "float64 explains" in page
    assert re.search(r"crossentropy \d+\.\d+\.\d+ ?, Python 3", page)
    assert re.search(r"Made at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", page)
    assert "label from 'label', probabilities from 'p_a' to 'p_c'" in page


def test_figures_of_the_page_are_those_of_the_report(tmp_path):
    p, labels = result(rows=500, power=2.0)
    found = report(p, labels=labels)
    page = Page(page_of(report, tmp_path / "page.html", p, labels=labels)).text
    assert f"log loss {found.loss.mean:.4g}" in page
    assert f"{found.calibration.temperature:.4g}" in page
    for part in found.by_class:
        assert f"{part.loss.mean:.4g}" in page
    for row in found.worst:
        assert f"{row.loss:.4g}" in page


@pytest.mark.parametrize("kind", ["soft", "multi-label"])
def test_labels_that_say_something_of_every_class(tmp_path, kind):
    p, labels = result(rows=200)
    if kind == "soft":
        options = {"labels": 0.9 * np.eye(3)[labels] + 0.1 / 3}
    else:
        options = {"labels": np.eye(3, dtype=int)[labels], "multi_label": True}
    text = Page(page_of(report, tmp_path / "page.html", p, **options)).text
    assert ("no prediction can lose less" in text) == (kind == "soft")
    assert ("absent" in text) == (kind == "multi-label")
    page_of(compare, tmp_path / "c.html", p, p**1.5 / (p**1.5).sum(axis=1, keepdims=True), **options)


# the command line --------------------------------------------------------------------------------------------------


def test_commands_write_pages(run, save, tmp_path):
    p, labels = result(rows=100)
    a, b = save(as_columns(p, labels)), save(as_columns(p**1.1, labels), "b.parquet")
    for command in (["report", a], ["compare", a, b]):
        status, out, _ = run(*command, "--html", tmp_path / "page.html")
        assert status == 0
        assert out.endswith(f"wrote {tmp_path / 'page.html'}\n")
        assert "</html>" in (tmp_path / "page.html").read_text("utf-8")


def test_a_page_that_cannot_be_written_is_one_clear_line(run, save, tmp_path):
    p, labels = result(rows=20)
    status, _, error = run("report", save(as_columns(p, labels)), "--html", tmp_path / "none" / "page.html")
    assert status == 1
    assert "cannot be written" in error
    assert error.count("\n") == 1
    status, _, error = run("report", tmp_path / "x.parquet", "--language-model", "--html", tmp_path / "page.html")
    assert status == 2


# any data at all ---------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(st.data())
def test_any_data_has_a_page(data):
    rows, classes = data.draw(st.integers(1, 30)), data.draw(st.integers(2, 4))
    value = st.sampled_from([0.0, 1e-300, 1e-9, 0.25, 0.5, 1 - 1e-12, 1.0])
    p = np.array(data.draw(st.lists(st.lists(value, min_size=classes, max_size=classes), min_size=rows, max_size=rows)))
    labels = data.draw(st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows))
    names = data.draw(st.lists(st.text(min_size=1, max_size=8), min_size=classes, max_size=classes, unique=True))
    found = report(p, labels=labels)
    sums = ReliabilitySums.empty(names, [None, 1]).update(Batch(p, np.array(labels)))
    by_class = tuple(replace(part, name=name) for part, name in zip(found.by_class, names, strict=True))
    named = replace(found, classes=tuple(names), by_class=by_class, slices={names[0]: by_class})
    text = report_page(named, sums.result(), PROVENANCE)
    page = Page(text)
    assert page.tags.count("script") == 1
    assert page.tags.count("svg") == text.count("<svg ")
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "nan" not in re.sub(r"<style>.*?</style>|<script>.*?</script>", "", text, flags=re.DOTALL).lower().split()
    other = compare(p, np.roll(p, 1, axis=0), labels=labels)
    assert Page(comparison_page(other, PROVENANCE)).tags.count("script") == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_outputs_that_are_links_or_pipes_stay_what_they_are(tmp_path):
    probabilities, labels = softmax_rows(40, 3, seed=8)
    (tmp_path / "real.html").write_text("old")
    (tmp_path / "link.html").symlink_to("real.html")
    report(probabilities, labels=labels, html=tmp_path / "link.html")
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "real.html").read_text("utf-8").startswith("<!doctype html>")
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text("utf-8")))
    reader.start()
    report(probabilities, labels=labels, html=tmp_path / "pipe")
    reader.join(30)
    assert read[0].startswith("<!doctype html>")
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.html", "pipe", "real.html"]
    missing = tmp_path / "nowhere" / "page.html"
    with pytest.raises(PredictionError, match=r"page\.html: cannot be written: No such file"):
        report(probabilities, labels=labels, html=missing)


def test_a_comparison_signs_the_ends_of_its_intervals(tmp_path):
    probabilities, labels = softmax_rows(400, 3, seed=9)
    sharp = probabilities**3 / (probabilities**3).sum(axis=1, keepdims=True)
    found = compare(probabilities, sharp, labels=labels, html=tmp_path / "page.html")
    ends = found.by_class[0].difference.interval
    assert ends[1] > 0
    table = (tmp_path / "page.html").read_text("utf-8").split("<tbody>")[1]
    shown = re.search(r">([+-][\d.]+) to (\+[\d.]+)<", table)
    assert [float(text) for text in shown.groups()] == pytest.approx(ends, rel=0.005)


def logit_columns(logits, labels):
    return {"label": labels, **{f"logit_{i}": logits[:, i] for i in range(logits.shape[1])}}


@pytest.mark.filterwarnings("error")
def test_losses_of_thousands_of_nats_have_every_form(run, save, tmp_path):
    logits = np.random.default_rng(10).normal(size=(200, 3))
    labels = np.arange(200) % 3
    path = save(logit_columns(1e4 * logits, labels))
    mild = save(logit_columns(logits, labels), "mild.parquet")
    for command in ("report", "calibrate"):
        assert run(command, path)[0] in (0, 1)
    for call in (["report", path], ["compare", path, mild], ["compare", mild, path]):
        status, text, error = run(*call, "--html", tmp_path / "page.html")
        assert (status, error) == (0, "")
        assert "inf nats" not in text  # every loss is finite
        assert "times the probability" in text or call[0] == "report"
        assert (tmp_path / "page.html").stat().st_size < 300_000


def test_a_temperature_beyond_the_grid_is_not_given_as_found():
    from crossentropy.evaluation import plots

    generator = np.random.default_rng(11)
    sure = generator.permuted(np.tile([0.9999, 0.00005, 0.00005], (300, 1)), axis=1)  # of what it knows nothing about
    found = report(sure, labels=generator.integers(3, size=300))
    assert found.calibration.at_edge
    top = ReliabilitySums.empty(found.classes, [None]).update(Batch(sure, np.zeros(300, int))).result()[0]
    said = " ".join(report_verdict(found, top).answers[3].sentences)
    assert "The temperature beyond 16.0 saves" in said
    labels = [line.get_label() for line in plots.temperature_curve(found.calibration).get_lines()]
    assert "best: beyond 16.00" in labels


def test_one_row_is_one_row():
    found = report(np.array([[0.9, 0.1]]), labels=[0])
    top = ReliabilitySums.empty(found.classes, [None]).update(Batch(np.array([[0.9, 0.1]]), np.array([0]))).result()[0]
    assert report_verdict(found, top).reason == "1 row says nothing about the rows to come."
