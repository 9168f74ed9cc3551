"""From saved predictions to understanding: the log loss, what it is made of and where it is lost.

Everything here loads on first use: the command line must answer `--help` before NumPy or Arrow could be imported.
"""

from importlib import import_module

_HOME = {
    "Batch": "batches",
    "Evaluation": "report",
    "LogLossReport": "scores",
    "PredictionError": "batches",
    "read_predictions": "tables",
    "report": "report",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    # `report` is a module and the function in it: the function is what the package offers, and once it is stored
    # under the name here, importing the submodule again does not put the module back in its place.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
