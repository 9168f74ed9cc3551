"""Whose array: derivatives and device rules of one array library each; no arithmetic."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType


def load(name: str) -> ModuleType:
    """The module of one library, imported on first use."""
    if name == "torch":  # torch.compile follows an import statement, but not importlib; `from` takes 0.5 us more
        import crossentropy.libraries.torch as module

        return module
    full = f"crossentropy.libraries.{name}"
    return sys.modules.get(full) or importlib.import_module(full)
