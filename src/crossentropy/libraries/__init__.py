"""Whose array: derivatives and device rules of one array library each; no arithmetic."""

from __future__ import annotations

import importlib
from types import ModuleType


def load(name: str) -> ModuleType:
    """The module of one library, imported on first use."""
    if name == "torch":  # torch.compile follows an import statement, but not importlib
        from crossentropy.libraries import torch

        return torch
    return importlib.import_module(f"crossentropy.libraries.{name}")
