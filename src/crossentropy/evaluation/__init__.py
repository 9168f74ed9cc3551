"""From saved predictions to understanding: the log loss, what it is made of and where it is lost.

Everything here loads on first use: the command line must answer `--help` before NumPy or Arrow could be imported.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Batch": "batches",
    "CalibratedClassifier": "calibrated_classifier",
    "CalibrationFit": "calibration_fit",
    "Categories": "batches",
    "Comparison": "comparison",
    "Evaluation": "state",
    "LanguageModelEvaluation": "language_model",
    "LanguageModelReport": "language_model_scores",
    "LogLossReport": "log_loss_report",
    "PredictionError": "batches",
    "Reliability": "reliability_diagram",
    "Scaler": "scaler",
    "TextBatch": "language_model",
    "apply_scaler": "scaled_predictions",
    "calibrate": "commands",
    "compare": "commands",
    "compare_language_models": "language_model_comparison",
    "language_model_report": "language_model_table",
    "language_model_rows": "language_model_row_table",
    "read_predictions": "tables",
    "reliability": "commands",
    "report": "commands",
    "rows": "commands",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
