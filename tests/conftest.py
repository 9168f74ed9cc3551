"""What every test gets: the array libraries, arrays that refuse to be written to, and the hypothesis profiles."""

import importlib.util
import os
import shutil
import zlib
from dataclasses import dataclass
from typing import Any, ClassVar

import hypothesis
import numpy as np
import pytest

import crossentropy as xe

hypothesis.settings.register_profile("fast", max_examples=60, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "fast"))


@dataclass(frozen=True)
class NumPy:
    """NumPy arrays in, NumPy arrays out. Inputs are read-only, so a write to one raises where it happens."""

    name = "numpy"
    # Whether a bad value can raise: not where values are unknown (labels traced under jit).
    can_raise = True
    # Results below this may be 0: 16-bit ones are always held to their subnormal numbers otherwise.
    flushed = 0.0

    def working_eps(self, dtype: np.dtype) -> float:
        """The spacing at 1 of the numbers that a result of this dtype is computed in."""
        return float(np.finfo(np.float64).eps)

    def index_dtype(self, dtype: np.dtype) -> np.dtype:
        """Of a prediction for logits of this dtype."""
        return np.dtype(np.int64)

    def takes(self, item: pytest.Item) -> bool:
        """Whether it runs this test of the table: one that compiles takes a sample."""
        return True

    def array(self, values: Any) -> Any:
        """This library's array of a NumPy array; anything else is an option's plain value and stays as it is."""
        if isinstance(values, tuple):
            return tuple(self.array(v) for v in values)
        if not isinstance(values, np.ndarray):
            return values
        view = values.view()
        view.flags.writeable = False
        return view

    def numpy(self, result: Any) -> Any:
        """NumPy's array of this library's result."""
        if isinstance(result, tuple):
            return tuple(self.numpy(v) for v in result)
        if result is None:
            return None
        assert isinstance(result, (np.ndarray, np.generic)), f"not a NumPy result: {type(result)}"
        return np.asarray(result)

    def call(self, function: str, *arguments: Any, **options: Any) -> Any:
        """Call `xe.<function>` on this library's arrays; NumPy arrays in and out, inputs checked to be untouched."""
        given = [self.array(a) for a in arguments]
        named = {name: self.array(value) for name, value in options.items()}
        return self.numpy(self.apply(getattr(xe, function), given, named))

    def apply(self, function: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
        """How this library calls: eagerly; a library that traces compiles here."""
        return function(*arguments, **options)


@dataclass(frozen=True)
class JAX(NumPy):
    """JAX arrays in and out, one operation after the other; float64 numbers turn jax_enable_x64 on for the call."""

    name = "jax"
    # XLA takes numbers below the smallest normal float32 for 0, and such results.
    flushed = float(np.finfo(np.float32).smallest_normal)

    def index_dtype(self, dtype: np.dtype) -> np.dtype:
        """The widest integers that JAX is set to hold."""
        return np.dtype(np.int64 if dtype == np.float64 else np.int32)

    def takes(self, item: pytest.Item) -> bool:
        """Each operation of each new shape is compiled, 10 to 100 ms: every option alone in every dtype, and samples.

        Left out, since they would compile for minutes: most pairs of options and defined results (their shapes differ
        from test to test), the bounds in float32 (which are held where they are compiled in one piece), properties
        (hypothesis makes new shapes), and blocks of classes, which the linear form has not here.
        """
        name, stem = item.originalname, item.path.stem
        if stem == "test_options" and name == "test_each_option_alone":
            return True
        if name == "test_blocks_of_classes":
            return False
        if stem == "test_exactness":
            is_wide = parameters_of(item).get("dtype") == np.float64
            return is_wide and name not in CompiledJAX.not_compiled and is_sampled(item, 16)
        samples = {"test_options": 16, "test_defined_results": 8, "test_linear": 40}
        samples |= {"test_distributions": 12, "test_arrays": 24}
        if name == "test_as_many_options_as_go_together" and stem == "test_options":
            return is_sampled(item, 4)
        return stem in samples and is_sampled(item, samples[stem])

    def working_eps(self, dtype: np.dtype) -> float:
        """The working precision is that of the result."""
        return float(np.finfo(np.float64 if dtype == np.float64 else np.float32).eps)

    def array(self, values: Any) -> Any:
        import jax.numpy as jnp

        if isinstance(values, tuple):
            return tuple(self.array(v) for v in values)
        return jnp.asarray(values) if isinstance(values, np.ndarray) else values

    def numpy(self, result: Any) -> Any:
        import jax

        if isinstance(result, tuple):
            return tuple(self.numpy(v) for v in result)
        assert isinstance(result, jax.Array), f"not a JAX result: {type(result)}"
        return np.asarray(result)

    def call(self, function: str, *arguments: Any, **options: Any) -> Any:
        import jax

        with jax.enable_x64(getattr(arguments[0], "dtype", None) == np.float64):
            return super().call(function, *arguments, **options)


class CompiledJAX(JAX):
    """The same in one compiled function, whose arguments are traced: nothing can raise for a value."""

    name = "jax-jit"
    can_raise = False
    # Hundreds of shapes or options, each compiled anew.
    not_compiled = ("test_any_row", "test_options_on_full_length_numbers", "test_the_mean_of_ten_million_rows")

    def takes(self, item: pytest.Item) -> bool:
        """Each call is compiled, 0.3 to 2 s: the bounds in float32 and 16 bits, where XLA's own errors count; samples.

        Left out: float64 but for a sample (its operations are held to the bounds one by one), most options and defined
        results, properties, and what is no loss (distributions, conversions).
        """
        name, stem = item.originalname, item.path.stem
        dtype = parameters_of(item).get("dtype")
        if stem == "test_exactness" and name not in self.not_compiled:
            if dtype == np.float64:
                return is_sampled(item, 24)
            return name != "test_ordinary_rows" or is_sampled(item, 8)
        if stem == "test_options" and name == "test_each_option_alone":
            return is_sampled(item, 16 if dtype == np.float32 else 64)
        if name in ("test_as_many_options_as_go_together", "test_each_option_alone"):
            return is_sampled(item, 16 if stem == "test_options" else 80)
        return stem == "test_defined_results" and is_sampled(item, 32)

    def apply(self, function: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
        import jax

        arrays = {name: value for name, value in options.items() if isinstance(value, jax.Array)}
        rest = {name: value for name, value in options.items() if name not in arrays}
        return jax.jit(lambda given, named: function(*given, **named, **rest))(arguments, arrays)


class CompiledByXLA(CompiledJAX):
    """The form that XLA compiles, which the core leaves to other devices and to programs for several of them."""

    name = "jax-xla"

    def takes(self, item: pytest.Item) -> bool:
        return super().takes(item) and is_sampled(item, 12)

    def apply(self, function: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CROSSENTROPY_KERNEL", "generic")
            return super().apply(function, arguments, options)


@dataclass(frozen=True)
class PyTorch(NumPy):
    """Tensors in, tensors out. An input that was written to has a version other than 0."""

    name = "torch"

    def takes(self, item: pytest.Item) -> bool:
        """The arithmetic is NumPy's: every eighth pair of options, every fifth line of the linear table, all else."""
        if item.path.stem == "test_linear" and "names" in parameters_of(item):
            return is_sampled(item, 5)
        return item.originalname != "test_each_option_with_each_other" or is_sampled(item, 8)

    def array(self, values: Any) -> Any:
        if isinstance(values, tuple):
            return tuple(self.array(v) for v in values)
        if not isinstance(values, (np.ndarray, np.generic)):
            return values
        import torch

        values = np.asarray(values)

        if values.dtype.name == "bfloat16":
            return torch.from_numpy(np.array(values).view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(np.array(values.astype(values.dtype.newbyteorder("="), copy=False)))

    def numpy(self, result: Any) -> Any:
        if isinstance(result, tuple):
            return tuple(self.numpy(v) for v in result)
        if result is None:
            return None
        import torch

        assert isinstance(result, torch.Tensor), f"not a tensor: {type(result)}"
        result = result.detach()
        if result.dtype == torch.bfloat16:
            import ml_dtypes

            return result.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return result.numpy()

    def apply(self, function: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
        import torch

        result = super().apply(function, arguments, options)
        inputs = [*arguments, *(value for name, value in options.items() if name != "out")]
        inputs = [part for value in inputs for part in (value if isinstance(value, tuple) else (value,))]
        written = [part for part in inputs if isinstance(part, torch.Tensor) and part._version]
        assert all(part is options.get("out") for part in written), "an input was written to"
        return result


@dataclass(frozen=True)
class PyTorchAutograd(PyTorch):
    """Gradients by backward, Hessian-vector products by double backward."""

    name = "torch-autograd"

    def takes(self, item: pytest.Item) -> bool:
        """Where derivatives differ from case to case: the tables of options and of defined results."""
        tables = ("test_options", "test_defined_results", "test_linear")
        is_plain = item.originalname in ("test_row_statistics_are_those_of_the_logits", "test_out_takes_the_gradients")
        return item.path.stem in tables and not is_plain and super().takes(item)

    def apply(self, function: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
        import torch

        name, logits = function.__name__, arguments[0]
        value_only = getattr(xe, name.removesuffix("_value_and_grad").removesuffix("_hvp"))
        differentiable = isinstance(logits, torch.Tensor) and logits.is_floating_point() and "out" not in options
        if function is value_only or not differentiable:
            return super().apply(function, arguments, options)
        if name.startswith("linear"):
            features, weight, target = arguments
            parts = [features, weight, *([] if options.get("bias") is None else [options["bias"]])]
            parts = [part.detach().requires_grad_() for part in parts]
            options |= {"bias": parts[2]} if len(parts) > 2 else {}
            value = super().apply(value_only, [*parts[:2], target], options)
            return value, torch.autograd.grad(value.sum(), parts)
        logits = logits.detach().requires_grad_()
        value = super().apply(value_only, [logits, arguments[1]], options)
        if name.endswith("_value_and_grad"):
            return value, torch.autograd.grad(value.sum(), logits)[0]
        (gradient,) = torch.autograd.grad(value.sum(), logits, create_graph=True)
        return torch.autograd.grad(gradient, logits, arguments[2])[0]


class Triton(PyTorch):
    """The Triton kernels under their interpreter, which takes tensors of the CPU for those of a device.

    It spends a tenth of a second on a call. In a process of its own: test_triton.py starts it.
    """

    name = "triton"
    # Values on a device are not waited for.
    can_raise = False
    # 2^x and float32 -> 16 bits may take numbers below the smallest normal float32 for 0.
    flushed = float(np.finfo(np.float32).smallest_normal)
    # How rows and classes are spread: rows and classes of one step, parts of the classes; None: as on a device.
    plan: tuple[int, int, int] | None = None
    # Of the tests of the softmax loss every so manieth, by their name; others are not run.
    sample: ClassVar[dict[str, int]] = {
        "test_each_option_alone": 64,
        "test_each_option_with_each_other": 256,
        "test_defined_results": 96,
        "test_as_many_options_as_go_together": 32,
        "test_ordinary_rows": 40,
        "test_large_offsets": 32,
        "test_sixteen_bit_rows": 8,
        "test_neighbours": 8,
        "test_ties": 3,
        "test_tiny_losses": 3,
        "test_large_losses": 3,
        "test_sixteen_bit_extremes": 3,
        "test_classes_that_cannot_occur": 3,
        "test_the_widest_range": 3,
        "test_the_slope_of_a_soft_cap_does_not_cancel": 4,
    }

    def takes(self, item: pytest.Item) -> bool:
        given = {key: value for key, value in parameters_of(item).items() if key != "library"}
        one_in = self.sample.get(item.originalname, self.sample.get(item.path.stem))
        if given.get("function") == "binary_cross_entropy" or "sigmoid" in item.name:
            return False
        return bool(one_in) and self.is_promised(item) and is_sampled(item, one_in)

    def is_promised(self, item: pytest.Item) -> bool:
        """A device adds up ignored rows too, as zeros: in float64 the sum has not the bits of the sum without them."""
        leaks = item.originalname == "test_an_ignored_row_leaks_nothing"
        return not (leaks and parameters_of(item)["dtype"] == np.float64)

    def working_eps(self, dtype: np.dtype) -> float:
        return float(np.finfo(np.float64 if dtype == np.float64 else np.float32).eps)

    def apply(self, function: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
        from crossentropy.kernels import triton

        with pytest.MonkeyPatch.context() as patch:
            if self.plan is not None:
                plan = triton.Plan(*self.plan, warps=1)
                patch.setattr(triton, "plan_of", lambda *sizes: plan)
            return super().apply(function, arguments, options)


class CUDA(Triton):
    """The Triton kernels on a device."""

    name = "cuda"

    def takes(self, item: pytest.Item) -> bool:
        is_soft = parameters_of(item).get("function") != "binary_cross_entropy"
        is_known = item.originalname in self.sample or item.path.stem == "test_defined_results"
        return is_soft and is_known and self.is_promised(item)

    def array(self, values: Any) -> Any:
        import torch

        array = super().array(values)
        return array.cuda() if isinstance(array, torch.Tensor) else array

    def numpy(self, result: Any) -> Any:
        import torch

        return super().numpy(result.cpu() if isinstance(result, torch.Tensor) else result)


class TritonInSteps(Triton):
    """Rows longer than a step of their program, and classes that no number of steps divides."""

    name, plan = "triton-steps", (8, 2, 1)


class TritonInParts(Triton):
    """The classes of a row spread over programs, whose statistics merge."""

    name, plan = "triton-parts", (8, 4, 2)


# One entry each: they meet every test that asks for `library`.
LIBRARIES: list[NumPy] = [NumPy()]
if importlib.util.find_spec("torch"):
    LIBRARIES += [PyTorch(), PyTorchAutograd()]
if importlib.util.find_spec("jax"):
    # jaxlib 0.10.2 takes some reductions on the CPU for another: without this its jit gives wrong sums.
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_experimental_ynn_fusion_type="
    LIBRARIES += [JAX(), CompiledJAX(), CompiledByXLA()]
if shutil.which("nvidia-smi") and importlib.util.find_spec("torch") and importlib.util.find_spec("triton"):
    import torch

    LIBRARIES += [CUDA()] if torch.cuda.is_available() else []
if os.environ.get("CROSSENTROPY_KERNEL") == "triton":
    LIBRARIES = [Triton(), TritonInSteps(), TritonInParts()]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave to each library the tests that it takes."""
    kept = [item for item in items if "library" not in (given := parameters_of(item)) or given["library"].takes(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


def is_sampled(item: pytest.Item, one_in: int) -> bool:
    """Every so manieth test, the same ones in every run."""
    return zlib.crc32(item.name.encode()) % one_in == 0


def parameters_of(item: pytest.Item) -> dict[str, Any]:
    return item.callspec.params if hasattr(item, "callspec") else {}


@pytest.fixture(scope="session", params=LIBRARIES, ids=lambda library: library.name)
def library(request: pytest.FixtureRequest) -> NumPy:
    return request.param
