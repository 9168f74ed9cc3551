"""What a result means in words: the answer to "may it be trusted?" and to "which is better?", with the reasons.

Every rule stands in one place, with its limit and why; pages only show what is decided here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from crossentropy import perplexity

from .calibration import Calibration
from .comparison_scores import ComparisonScores, PartDifference
from .reliability_diagram import Reliability
from .scores import LogLossScores, PartLoss
from .terminal import counted, number, percent, printable
from .text_table import shortened

# The share of the loss that calibrating would save, from which on the probabilities should not be used as they are,
# and from which on a difference is worth a word.
NOT_AS_THEY_ARE = 0.10
SLIGHTLY = 0.02
# With fewer rows per class the label frequencies of these rows say little about others: what they lose here is no
# baseline that a model had a chance to beat.
ROWS_PER_CLASS = 10
# A name in a sentence; tables show more of it.
LONGEST_NAME = 40


@dataclass(frozen=True)
class Answer:
    """A question of the first screen with its answer: a figure or a word, and sentences."""

    question: str
    answer: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """The answer in one line, its tone ("good", "care" or "bad"), the reason, and the questions behind it."""

    question: str
    answer: str
    tone: str
    reason: str
    answers: tuple[Answer, ...]


def report_verdict(report: LogLossScores, top: Reliability) -> Verdict:
    """Whether the probabilities may be trusted; `top` is the reliability of the predicted class."""
    tone, answer, reason = _trust(report, top)
    answers = (_how_good(report), _how_sure(report), _where_wrong(report), _confidence(report, top))
    return Verdict("May these probabilities be trusted?", answer, tone, reason, answers)


def _trust(report: LogLossScores, top: Reliability) -> tuple[str, str, str]:
    loss, (without, guess) = report.loss, _guess(report)
    if loss.infinite:
        return (
            "bad",
            "No: it ruled out what happened",
            f"{counted(loss.infinite)} gave the label the probability 0. A probability of 0 says that something is "
            "impossible; one such row makes the mean loss infinite.",
        )
    if loss.interval is None:
        return (
            "care",
            "Too few rows to tell",
            f"{counted(loss.rows)} say{'s' * (loss.rows == 1)} nothing about the rows to come.",
        )
    low, high = loss.interval
    if low > guess:
        return (
            "bad",
            "No: worse than not looking",
            f"Looking at no row, {without} would lose {number(guess, 4)} nats; this model loses "
            f"{number(loss.mean, 4)}.",
        )
    if high >= guess:
        return (
            "care",
            "Not shown yet",
            f"With {counted(loss.rows)} it is not clear that the model is better than {without}, with a loss of "
            f"{number(guess, 4)} nats.",
        )
    return _calibrated(report, top)


def _calibrated(report: LogLossScores, top: Reliability) -> tuple[str, str, str]:
    """The verdict on a model that knows something: do its probabilities mean what they say?"""
    found, loss = report.calibration, report.loss.mean
    without, guess = _guess(report)
    better = f"It predicts {'far ' * (loss < guess / 2)}better than {without}"
    share = (found.calibration or 0.0) / loss if found and loss else 0.0
    clear = found is not None and found.direction != "no clear direction"
    if found and found.temperature and clear and share >= SLIGHTLY:
        what = "says more than it knows" if found.gap > 0 else "knows more than it says"
        reason = (
            f"{better}, but it {what}: {_said_and_happened(top)} Dividing its logits by "
            f"{_temperature(found)} (crossentropy calibrate) would remove {_percent(share)} of its loss, "
            "measured on rows that this number was not fitted to."
        )
        degree = "Not as they are:" if share >= NOT_AS_THEY_ARE else "Nearly: slightly"
        return "care", f"{degree} {found.direction}", reason
    corp = report.corp
    if corp and corp.null_miscalibration is not None and loss:
        excess = (corp.miscalibration - corp.null_miscalibration) / loss
        if excess >= NOT_AS_THEY_ARE:
            return (
                "care",
                "In part: off in places",
                f"{better}, and as a whole it is neither over- nor under-confident, but in places its probabilities "
                f"are not the frequencies of what happened: {_percent(excess)} of the loss comes from that.",
            )
    aside = f" It is {found.direction}, but by too little to matter." if found and clear else ""
    return (
        "good",
        "Yes, on rows like these",
        f"{better}, and as far as {counted(report.loss.rows)} can tell its probabilities mean what they say: "
        f"{_said_and_happened(top)}{aside}",
    )


def _temperature(found: Calibration) -> str:
    """The temperature, or that the grid of the report ends before it."""
    return f"{'beyond ' * found.at_edge}{number(found.temperature or 1.0, 3)}"


def _said_and_happened(top: Reliability) -> str:
    """The plainest form of calibration: what it claims against how often that is right."""
    said, happened = _percent(top.mean_probability), _percent(top.mean_frequency)
    return f"on average it gives its answer {said}, and {happened} of its answers are right."


def _how_good(report: LogLossScores) -> Answer:
    loss, (without, guess) = report.loss, _guess(report)
    scale = f"0 is perfect; {without} would lose {number(guess, 3)}."
    if loss.infinite:
        others = [] if loss.finite_mean is None else [f"The other rows lose {number(loss.finite_mean, 4)}."]
        sentences = [*others, scale]
    else:
        skill = 1 - loss.mean / guess if guess else 0.0
        better = f" This is {_percent(abs(skill))} {'better' if skill >= 0 else 'worse'}." if guess else ""
        sentences = [scale + better, f"As if each label had been given {_percent(math.exp(-loss.mean))}."]
    sentences.append(f"{_percent(loss.accuracy)} of the rows are right.")
    mean = "infinite" if loss.infinite else number(loss.mean, 4)
    return Answer("How good?", f"log loss {mean}", tuple(sentences))


def _how_sure(report: LogLossScores) -> Answer:
    loss = report.loss
    if loss.interval is None:
        why = "an infinite mean has no interval" if loss.infinite else "too few for an interval"
        return Answer("How sure is that?", "not known", (f"{counted(loss.rows)}: {why}.",))
    low, high = loss.interval
    units = f"{loss.clusters:,} clusters of {counted(loss.rows)}" if loss.clusters else counted(loss.rows)
    sentences = (f"The 95 % interval of the log loss, from {units}.", "It holds for rows drawn like these, no others.")
    return Answer("How sure is that?", f"{number(low, 3)} to {number(high, 3)}", sentences)


def _where_wrong(report: LogLossScores) -> Answer:
    loss, parts = report.loss, [part for part in report.by_class if part.loss]
    worst = max(parts, key=_cost)
    assert worst.loss is not None  # parts without rows were left out
    wrong = loss.rows - loss.correct
    sentences = [f"{wrong:,} of {counted(loss.rows)} wrong."]
    rows = worst.loss.weight / loss.weight
    if worst.differs and worst.share is not None and worst.share > rows:
        answer = f"most in class {_name(worst.name)}"
        sentences.append(f"This class has {_percent(rows)} of the rows and {_percent(worst.share)} of the loss.")
    else:
        answer = "no class stands out"
        if not loss.infinite and len(parts) > 1:
            sentences.append("No class loses more than chance explains.")
    if report.worst_share is not None and loss.rows >= 100:
        sentences.append(f"The worst 1 % of the rows carry {_percent(report.worst_share)} of the loss.")
    if report.suspected_label_errors:
        sentences.append(f"Of about {counted(report.suspected_label_errors)} the label may be wrong instead.")
    return Answer("Where is it wrong?", answer, tuple(sentences))


def _confidence(report: LogLossScores, top: Reliability) -> Answer:
    found = report.calibration
    if found is None:
        return Answer("Over- or under-confident?", "not known", ("No row has a finite loss.",))
    said = _said_and_happened(top)
    sentences = [said[0].upper() + said[1:]]
    if found.direction == "no clear direction":
        sentences.append("Chance explains the difference between the loss and what the model expects to lose.")
        return Answer("Over- or under-confident?", found.direction, tuple(sentences))
    side = "more" if found.gap > 0 else "less"
    expected = found.loss - found.gap
    sentences.append(
        f"It loses {number(found.loss, 3)} where it expects to lose {number(expected, 3)}: {side}, and by more than "
        f"chance explains (z = {found.z:.1f})."
    )
    if found.temperature and found.calibration is not None and found.calibration > 0:
        sentences.append(f"The temperature {_temperature(found)} saves {number(found.calibration, 3)}.")
    return Answer("Over- or under-confident?", found.direction, tuple(sentences))


def comparison_verdict(comparison: ComparisonScores) -> Verdict:
    """Which of two models is better, and how sure that is."""
    found = comparison.difference
    ends = found.interval
    if math.isnan(found.mean):
        tone, answer = "care", "Neither: both have infinite losses"
        reason = "Each model gave the probability 0 to something that happened where the other did not."
    elif math.isinf(found.mean):
        tone, answer = "bad", f"{'A' if found.mean > 0 else 'B'} is better: the other ruled out what happened"
        rows = found.infinite_b if found.mean > 0 else found.infinite_a
        reason = f"{counted(rows)} gave the label the probability 0 in the other model alone."
    elif ends is None:
        tone, answer = "care", "Too few rows to tell"
        reason = f"{counted(found.rows)} say{'s' * (found.rows == 1)} nothing about the rows to come."
    elif ends[0] <= 0 <= ends[1]:
        tone, answer = "care", "No clear difference"
        reason = f"The difference of the mean losses lies between {_signed(ends[0])} and {_signed(ends[1])} nats."
    else:
        better, worse = ("A", "B") if found.mean > 0 else ("B", "A")
        tone, answer = "good", f"{better} is better"
        ratio = float(perplexity(abs(found.mean)))
        times = "more than 1e308" if math.isinf(ratio) else number(ratio, 4)
        reason = (
            f"On the same rows {better} loses {number(abs(found.mean), 3)} nats less per row: it gives the labels "
            f"{times} times the probability that {worse} gives them (geometric mean)."
        )
    answers = (_by_how_much(comparison), _how_often(comparison), _where(comparison))
    return Verdict("Which model is better?", answer, tone, reason, answers)


def _by_how_much(comparison: ComparisonScores) -> Answer:
    found = comparison.difference
    name = "undefined" if math.isnan(found.mean) else f"B - A = {_signed(found.mean)}"
    sentences = [f"A loses {number(comparison.loss_a, 4)} nats per row, B {number(comparison.loss_b, 4)}."]
    if found.interval:
        units = f"{comparison.clusters:,} clusters" if comparison.clusters else counted(found.rows)
        low, high = found.interval
        sentences.append(f"{_signed(low)} to {_signed(high)} with 95 % confidence, paired on {units}.")
    elif found.finite_mean is not None and not math.isfinite(found.mean):
        sentences.append(f"On the rows where both are finite: {_signed(found.finite_mean)}.")
    return Answer("By how much?", name, tuple(sentences))


def _how_often(comparison: ComparisonScores) -> Answer:
    found = comparison.difference
    ties = f" Ties ({found.ties:,}) count half." if found.ties else ""
    sentence = f"B has the smaller loss in {_percent(found.win_rate)} of the rows.{ties}"
    often = "B" if found.win_rate > 0.5 else "A"
    disagree = math.isfinite(found.mean) and found.mean != 0 and (found.mean < 0) != (found.win_rate > 0.5)
    sentences = [sentence, *(["More often is not by more: the mean counts by how much."] * disagree)]
    answer = "equally often" if found.win_rate == 0.5 else f"{often} on more rows"
    return Answer("How often?", answer, tuple(sentences))


def _where(comparison: ComparisonScores) -> Answer:
    clear = [part for part in comparison.by_class if part.differs and part.difference]
    if not clear:
        return Answer("Where?", "in no class clearly", ("No class differs by more than chance explains.",))

    def size(part: PartDifference) -> float:
        return abs(part.difference.mean) if part.difference else 0.0

    most = max(clear, key=size)
    assert most.difference is not None  # parts without rows were left out
    for_b = sum(1 for part in clear if part.difference and part.difference.mean < 0)
    sentences = (
        f"The largest clear difference by class: {_signed(most.difference.mean)} nats.",
        f"B is clearly better in {for_b} of {len(comparison.by_class):,} classes, A in {len(clear) - for_b}.",
    )
    return Answer("Where?", f"class {_name(most.name)}", sentences)


def _guess(report: LogLossScores) -> tuple[str, float]:
    """What a model has to beat to know anything: a prediction that looks at no row, its name and its loss."""
    uniform, prior = report.baselines[:2]
    happened = sum(1 for part in report.by_class if part.loss)
    if report.loss.rows < ROWS_PER_CLASS * happened:
        return "guessing alone", uniform.loss
    return "the label frequencies alone", prior.loss


def _percent(value: float) -> str:
    """A share in words: what is there is not rounded away."""
    return "less than 0.1 %" if 0 < value < 0.0005 else percent(value)


def _cost(part: PartLoss) -> tuple[float, float]:
    return part.share or 0.0, part.loss.mean if part.loss else 0.0


def _name(text: str) -> str:
    return shortened(printable(text), LONGEST_NAME)


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value, 3)
