"""Train a small network on scikit-learn's digits: torch.nn's loop, with the loss of this package.

Run: python examples/train_digits.py
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import crossentropy as xe
from crossentropy.torch import CrossEntropyLoss


def main() -> float:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16.0, labels, test_size=0.25, random_state=0, stratify=labels)
    train_x, test_x = (torch.tensor(part, dtype=torch.float32) for part in parts[:2])
    train_y, test_y = (torch.tensor(part) for part in parts[2:])

    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    criterion = CrossEntropyLoss(label_smoothing=0.05)  # the import is all that changed
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in range(8):
        for batch in torch.randperm(len(train_x)).split(128):
            optimizer.zero_grad()
            loss = criterion(model(train_x[batch]), train_y[batch])
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: training loss {loss.item():.4f}")

    with torch.no_grad():
        rows = xe.row_statistics(model(test_x), test_y)
    held_out = -rows.target_log_prob.mean().item()
    accuracy = (rows.prediction == test_y).double().mean().item()
    print(f"held-out loss {held_out:.4f} nats, accuracy {accuracy:.3f}")
    if not held_out < 0.4:
        raise SystemExit("the network did not learn")
    return held_out


if __name__ == "__main__":
    main()
