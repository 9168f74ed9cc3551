"""The import direction of docs/design.md, section "Layout", read from the source with `ast`."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "crossentropy"

# Lowest first: a module may import from its own line and from the lines before it, never from a later one.
# `kernels` is kernels/__init__.py, `kernels.*` are its members; "" is the package's own __init__.py.
COMPILED = {"kernels._native"}
LAYERS = [
    COMPILED,
    {"row_loss", "binary_loss", "arrays"},
    {"kernels.*", "kernels"},
    {"options", "arguments", "row_coefficients", "binary_coefficients", "reduction", "libraries.*", "libraries"}
    | {"linear_chunks"},
    {"distributions", "losses", "linear"},
    {""},
    {"torch", "torch.*", "optax", "evaluation.batches", "evaluation.intervals"},
    {"evaluation.scaler", "evaluation.whole_file"},
    {"evaluation.calibration", "evaluation.temperature_sums", "evaluation.clusters", "evaluation.columns"},
    {"evaluation.label_frequencies"},
    {"evaluation.class_index", "evaluation.comparison_scores", "evaluation.multi_label", "evaluation.read_ahead"},
    {"evaluation.corp", "evaluation.curves", "evaluation.formats", "evaluation.forms", "evaluation.loss_histogram"},
    {
        "evaluation.row_scores",
        "evaluation.soft_labels",
        "evaluation.state_bytes",
        "evaluation.stored_precision",
        "evaluation.text_table",
    },
    {"evaluation.accumulators", "evaluation.label_errors", "evaluation.row_sums"},
    {"evaluation.provenance", "evaluation.scaler_survey", "evaluation.scores", "evaluation.slices"},
    {"evaluation.scaler_fit"},
    {"evaluation.arrow_columns", "evaluation.reliability_diagram", "evaluation.tables", "evaluation.terminal"},
    {"evaluation.curve_plots"},
    {"evaluation.plots", "evaluation.verdict"},
    {"evaluation.pictures"},
    {"evaluation.page"},
    {"evaluation.alignment", "evaluation.calibration_fit", "evaluation.comparison_text"},
    {"evaluation.calibrated_classifier", "evaluation.log_loss_report", "evaluation.state"},
    {"evaluation.comparison", "evaluation.demo", "evaluation.language_model_scores", "evaluation.row_table"},
    {"evaluation.language_model", "evaluation.language_model_table", "evaluation.scaled_predictions"},
    {"evaluation.language_model_comparison", "evaluation.language_model_row_table"},
    {"evaluation.commands"},
    {"evaluation"},
    {"evaluation.command_line"},
    {"evaluation.cli"},
    {"__main__"},
]
# Members that do not know of each other: each is one answer to the same question (who computes, whose array).
STRANGERS = ("kernels.", "libraries.")
# What only the named modules may import, wherever the statement stands. The rest of the core knows NumPy alone.
OPTIONAL = {
    "torch": {"libraries.torch", "torch", "torch.functional", "torch.modules", "kernels.triton"},
    "triton": {"kernels.triton"},
    "jax": {"kernels.xla", "libraries.jax", "optax"},
    "jinja2": {"evaluation.page"},
    "matplotlib": {"evaluation.curve_plots", "evaluation.pictures", "evaluation.plots"},
    "pyarrow": {
        *("evaluation.alignment", "evaluation.arrow_columns", "evaluation.calibration_fit", "evaluation.commands"),
        *("evaluation.demo", "evaluation.formats", "evaluation.forms", "evaluation.language_model_row_table"),
        *("evaluation.language_model_table",),
        *("evaluation.multi_label", "evaluation.row_table", "evaluation.scaled_predictions", "evaluation.tables"),
    },
    "rich": {
        *(
            "evaluation.calibration_fit",
            "evaluation.cli",
            "evaluation.comparison",
            "evaluation.comparison_text",
            "evaluation.demo",
        ),
        *("evaluation.forms", "evaluation.language_model_scores", "evaluation.log_loss_report", "evaluation.terminal"),
        "evaluation.text_table",
    },
    "sklearn": {"evaluation.calibrated_classifier", "evaluation.demo"},
}


def layer(module):
    """Position of `module` in LAYERS; a member of a package is named by itself or by `package.*`."""
    for position, names in enumerate(LAYERS):
        if module in names or (module.partition(".")[0] + ".*" in names and "." in module):
            return position
    raise AssertionError(f"crossentropy.{module} has no place in LAYERS; docs/design.md says which layers there are")


def read_modules():
    """Every module of the package, without the package's name: {"kernels.generic": its syntax tree, ...}."""
    modules = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = (path, ast.parse(path.read_text("utf-8")))
    return modules


MODULES = read_modules()


def imported_names(module):
    """Absolute dotted names that `module` imports; for `from a import b` both a and a.b, since b can be a module."""
    path, tree = MODULES[module]
    package = ["crossentropy", *path.relative_to(SOURCE).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            members = {f"{base}.{alias.name}" for alias in node.names}
            own = {name for name in members if name.removeprefix("crossentropy.") in {*MODULES, *COMPILED}}
            yield from own
            if members - own:
                yield base


def imported_modules(module):
    """Modules of this package that `module` imports."""
    for name in imported_names(module):
        head, _, rest = name.partition(".")
        if head == "crossentropy":
            yield rest


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    for target in imported_modules(module):
        assert layer(target) <= layer(module), f"crossentropy.{module} must not import crossentropy.{target}"
        for package in STRANGERS:
            own, other = (name.removeprefix(package).partition(".")[0] for name in (module, target))
            strangers = module.startswith(package) and target.startswith(package) and own != other
            assert not strangers or target in COMPILED, (
                f"crossentropy.{module} and crossentropy.{target} must not know of each other"
            )


@pytest.mark.parametrize("module", MODULES)
def test_an_optional_library_is_imported_in_its_own_module_alone(module):
    for name in imported_names(module):
        owners = OPTIONAL.get(name.partition(".")[0])
        # An owner is a module, or a package with all its members.
        parents = {module, ".".join(module.split(".")[:2])}
        assert owners is None or parents & owners, f"crossentropy.{module} must not import {name}"


def test_imports_have_no_circle():
    TopologicalSorter({module: set(imported_modules(module)) - {module} for module in MODULES}).prepare()


def test_importing_the_package_loads_numpy_alone():
    script = (
        "import numpy, sys; before = set(sys.modules); import crossentropy\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["crossentropy"]


@pytest.mark.parametrize(
    "call",
    [
        *(f"{name}([[0.2, 0.8]])" for name in ("softmax", "log_softmax", "sigmoid", "log_sigmoid", "entropy")),
        "kl_divergence([[0.2, 0.8]], [[0.5, 0.5]])",
        "one_hot([0, 1], 2)",
        "perplexity(1.0)",
        "softmax_jacobian([[0.2, 0.8]])",
        "row_statistics([[0.2, 0.8]])",
        "linear_cross_entropy([[0.2]], [[0.2], [0.8]], [1])",
        "cross_entropy([[0.2, 0.8]], [1])",
        "binary_cross_entropy([0.2], [1])",
    ],
)
def test_every_function_can_be_the_first_one_called(call):
    script = f"import crossentropy as xe; xe.{call}"
    subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
