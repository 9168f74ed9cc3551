"""A fine-tuning-style loop: prompt tokens are masked, sequences differ in length, micro-batches are accumulated.

Every micro-batch has another number of tokens that count. With the step's whole count as ``normalizer`` the accumulated
gradient is that of the whole batch; the mean of the micro-batches' means would weigh a short answer's tokens more.

Run: python examples/finetune_masked.py
"""

import torch

from crossentropy.torch import CrossEntropyLoss

TOKENS, WIDTH, IGNORED = 12, 32, -100


def sequences(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Counting sequences; the prompt and the padding have no label."""
    start = torch.randint(0, TOKENS, (count, 1))
    tokens = (start + torch.arange(17)) % TOKENS
    inputs, labels = tokens[:, :-1], tokens[:, 1:].clone()
    position = torch.arange(16)
    prompt, length = torch.randint(1, 5, (count, 1)), torch.randint(6, 17, (count, 1))
    labels[(position < prompt) | (position >= length)] = IGNORED
    return inputs, labels


def main() -> float:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(TOKENS, WIDTH), torch.nn.Linear(WIDTH, TOKENS))
    criterion = CrossEntropyLoss(ignore_index=IGNORED, z_loss=1e-4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(40):
        inputs, labels = sequences(16)
        count = (labels != IGNORED).sum()  # of the whole step, before the first micro-batch
        optimizer.zero_grad()
        total = 0.0
        for micro_inputs, micro_labels in zip(inputs.split(5), labels.split(5), strict=True):
            logits = model(micro_inputs)  # (sequences, positions, tokens)
            loss = criterion(logits.transpose(1, 2), micro_labels, normalizer=count)
            loss.backward()
            total += loss.item()
        optimizer.step()
        if step % 10 == 9:
            print(f"step {step + 1}: loss {total:.4f}")
    if not total < 0.1:
        raise SystemExit("the model did not learn to count")
    return total


if __name__ == "__main__":
    main()
