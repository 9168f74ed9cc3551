"""torch.nn's losses with torch.nn's arguments, computed by this package: change the import, nothing else.

Argument names, defaults, the class axis (1, or 0 without a batch) and what a mean divides by are PyTorch's; every
option of ``crossentropy.cross_entropy`` is accepted by keyword, when the module is made or when it is called. Results
differ where PyTorch gives NaN, clamps a logarithm, rounds a 16-bit loss or takes bad input in silence: the table is in
docs/torch.md.

>>> import torch
>>> from crossentropy.torch import CrossEntropyLoss
>>> criterion = CrossEntropyLoss(label_smoothing=0.1, z_loss=1e-4)
>>> logits = torch.tensor([[2.0, 1.0, 0.1]], requires_grad=True)
>>> criterion(logits, torch.tensor([0])).backward()
>>> logits.grad
tensor([[-0.2740,  0.2091,  0.0653]])
"""

import torch.nn

from crossentropy.torch.functional import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    linear_cross_entropy,
    nll_loss,
)
from crossentropy.torch.modules import BCELoss, BCEWithLogitsLoss, CrossEntropyLoss, NLLLoss

if hasattr(torch.nn, "LinearCrossEntropyLoss"):  # torch 2.13 has it; before, the function serves
    from crossentropy.torch.modules import LinearCrossEntropyLoss

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "LinearCrossEntropyLoss",
    "NLLLoss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "linear_cross_entropy",
    "nll_loss",
]
