"""A small language model, trained twice on the text of Python's own help: with all logits, and with a chunk of them.

The model sees four tokens and predicts the next; the last layer has a row for each of some thousand tokens, so that the
logits of a batch are much larger than anything else. ``linear_cross_entropy`` never holds them all. The loss, the
perplexity and the bits per byte of the text that was held out are the same; the memory is not.

Run: python examples/train_language_model.py
"""

import collections
import json
import math
import pydoc_data.topics
import re
import subprocess
import sys
from pathlib import Path

import torch

import crossentropy as xe

SEEN, WIDTH, BATCH, STEPS = 4, 32, 4_096, 12
FORMS = {
    "all logits": lambda features, head, labels: xe.cross_entropy(head(features), labels),
    "in chunks": lambda features, head, labels: xe.linear_cross_entropy(
        features, head.weight, labels, bias=head.bias, memory_budget=4_000_000
    ),
}


def tokens_of(text: str) -> tuple[torch.Tensor, list[str]]:
    """Words with the space before them where they occur twice, else characters: nothing is lost."""
    pieces = re.findall(r" ?\w+|\s+|.", text)
    common = {piece for piece, count in collections.Counter(pieces).items() if count >= 2}
    tokens = [token for piece in pieces for token in ([piece] if piece in common else piece)]
    vocabulary = sorted(set(tokens))
    index = {token: i for i, token in enumerate(vocabulary)}
    return torch.tensor([index[token] for token in tokens]), vocabulary


class Model(torch.nn.Module):
    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(tokens, WIDTH)
        self.mix = torch.nn.Linear(SEEN * WIDTH, WIDTH)
        self.head = torch.nn.Linear(WIDTH, tokens)

    def features(self, seen: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.mix(self.embedding(seen).flatten(1)))


def memory(what: str) -> int:
    """Bytes that Linux knows this process by: "VmRSS" now, "VmHWM" at the most since ``begin_again``; elsewhere 0."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(what)), 0)


def begin_again() -> None:
    marks = Path("/proc/self/clear_refs")
    if marks.exists():
        marks.write_text("5")


def train(form: str) -> dict[str, float]:
    torch.manual_seed(0)
    text = "\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))
    tokens, vocabulary = tokens_of(text)
    windows = tokens.unfold(0, SEEN + 1, 1)
    held_out = windows[-BATCH:]
    windows = windows[: -BATCH - SEEN]
    model, loss_of = Model(len(vocabulary)), FORMS[form]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    begin_again()
    before = memory("VmRSS")
    for _ in range(STEPS):
        batch = windows[torch.randint(len(windows), (BATCH,))]
        optimizer.zero_grad()
        loss_of(model.features(batch[:, :-1]), model.head, batch[:, -1]).backward()
        optimizer.step()
    with torch.no_grad():
        loss = loss_of(model.features(held_out[:, :-1]), model.head, held_out[:, -1]).item()
    size = sum(len(vocabulary[token].encode()) for token in held_out[:, -1].tolist())
    return {
        "tokens": len(vocabulary),
        "loss, nats per token": loss,
        "perplexity": math.exp(loss),
        "bits per byte": loss * len(held_out) / math.log(2) / size,
        "memory, MB": (memory("VmHWM") - before) / 1e6,
    }


def main() -> dict[str, dict[str, float]]:
    """Each form in a process of its own, whose memory is its own."""
    if len(sys.argv) > 1:
        print(json.dumps(train(sys.argv[1])))
        return {}
    results = {}
    for form in FORMS:
        done = subprocess.run([sys.executable, __file__, form], capture_output=True, text=True, check=True)
        results[form] = json.loads(done.stdout)
    print(f"{'':22}" + "".join(f"{form:>14}" for form in FORMS))
    for name in results["in chunks"]:
        print(f"{name:22}" + "".join(f"{result[name]:14.4f}" for result in results.values()))
    a, b = (result["loss, nats per token"] for result in results.values())
    if abs(a - b) > 1e-3 * a:
        raise SystemExit("the two forms learnt different models")
    return results


if __name__ == "__main__":
    main()
