"""Every option once: name, default, check and error text.

The public functions take options by keyword and make a ``LossOptions`` or ``BinaryOptions`` of them; nobody else
repeats the list. Checks that need the shapes of the arrays are in ``row_coefficients`` and ``binary_coefficients``.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import operator
from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def option(default: Any, check: Callable[[str, Any], Any]) -> Any:
    return dataclasses.field(default=default, metadata={"check": check})


def one_of(*allowed: str) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if isinstance(value, str) and value in allowed:
            return value
        close = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}{hint}")

    return check


def is_python_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(within: Callable[[float], bool], domain: str, hint: str = "") -> Callable[[str, Any], float]:
    def from_array(name: str, value: Any) -> float:
        # A 0-d array or a one-element tensor is a number here; an array of several is a mistake worth a clear word.
        is_number = not isinstance(value, (bool, str, bytes)) and value is not None
        if not is_number or math.prod(getattr(value, "shape", ())) != 1:
            raise TypeError(f"{name} must be {domain}, got {value!r}{hint}")
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"{name} must be {domain}, got {type(value).__name__}{hint}") from None

    def check(name: str, value: Any) -> float:
        result = value * 1.0 if is_python_number(value) else from_array(name, value)
        if not within(result):
            raise ValueError(f"{name} must be {domain}, got {value!r}{hint}")
        return result

    return check


def positive_scalar(name: str, value: Any) -> Any:
    """A number. A tensor of one element stays one, since a derivative to it may be wanted; its library checks it."""
    if not is_python_number(value) and hasattr(value, "requires_grad") and math.prod(value.shape) == 1:
        return value
    return number(lambda v: 0 < v < math.inf, "a positive number", "; one number, not one per row")(name, value)


def optional(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else check(name, value)


def integer(name: str, value: Any) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def thread_count(name: str, value: Any) -> int:
    count = integer(name, value)
    if count < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}; None uses every core")
    return count


def boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def array(name: str, value: Any) -> Any:
    """Checked where the shapes meet; here only what can never be an array of numbers."""
    if isinstance(value, (str, bytes, dict)):
        raise TypeError(f"{name} must be an array of numbers, got {type(value).__name__}")
    return value


def normalizer(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return one_of("weight", "rows")(name, value)
    if value is None:
        raise TypeError(f'{name} must be "weight", "rows", a number or an array, got None')
    if isinstance(value, int | float):
        return number(lambda v: 0 <= v < math.inf, "a finite number >= 0")(name, value)
    return array(name, value)


class Options:
    """A call's options as attributes; what was not given is the class's default, so a plain call checks nothing."""

    def __init__(self, **given: Any) -> None:
        plain = self.plain
        changed = [name for name, value in given.items() if value is not plain[name]]
        if not changed:
            return
        defaults = type(self).defaults()
        for name in changed:
            value, (default, check) = given[name], defaults[name]
            if not (type(value) is type(default) and value == default):
                self.__dict__[name] = check(name, value)
        if self.__dict__:
            self.check_together()

    def check_together(self) -> None:
        """ValueError for options without a joint meaning."""

    def replace(self, **changes: Any) -> Self:
        """The same options but for these, which are not checked again."""
        result = object.__new__(type(self))
        result.__dict__.update(self.__dict__ | changes)
        return result

    table: ClassVar[dict[str, tuple[Any, Callable[[str, Any], Any]]]] = {}
    plain: ClassVar[dict[str, Any]] = {}  # the defaults alone

    @classmethod
    def defaults(cls) -> dict[str, tuple[Any, Callable[[str, Any], Any]]]:
        """Name -> (default, check)."""
        return cls.table


OptionsType = TypeVar("OptionsType", bound=type[Options])


def with_table(cls: OptionsType) -> OptionsType:
    """Made once with the class: torch.compile warns about a ``functools`` cache."""
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    cls.table = {field.name: (field.default, field.metadata["check"]) for field in fields}
    cls.plain = {name: default for name, (default, _) in cls.table.items()}
    return cls


@dataclasses.dataclass(init=False, eq=False)
class SharedOptions(Options):
    """Options that mean the same for the softmax and the sigmoid loss."""

    inputs: str = option("logits", one_of("logits", "log_probs", "probs"))
    row_weight: Any = option(None, optional(array))
    ignore_index: int | None = option(-100, optional(integer))
    label_smoothing: float = option(0.0, number(lambda v: 0 <= v < 1, "a number in [0, 1)"))
    focal_gamma: float = option(0.0, number(lambda v: 0 <= v < math.inf, "a finite number >= 0"))
    reduction: str = option("mean", one_of("none", "sum", "mean"))
    normalizer: Any = option("weight", normalizer)
    unit: str = option("nats", one_of("nats", "bits"))
    num_threads: int | None = option(None, optional(thread_count))

    def check_together(self) -> None:
        if self.focal_gamma and self.label_smoothing:
            raise ValueError(
                f"focal_gamma={self.focal_gamma} and label_smoothing={self.label_smoothing} have no joint meaning: "
                "the focal loss weighs the probability of one certain class; set one of them to 0"
            )


@with_table
@dataclasses.dataclass(init=False, eq=False)
class LossOptions(SharedOptions):
    """Options of the softmax loss."""

    axis: int = option(-1, integer)
    class_weight: Any = option(None, optional(array))
    class_mask: Any = option(None, optional(array))
    z_loss: float = option(0.0, number(lambda v: 0 <= v < math.inf, "a finite number >= 0"))
    softcap: float | None = option(None, optional(number(lambda v: 0 < v < math.inf, "a positive number or None")))
    temperature: Any = option(1.0, positive_scalar)
    class_bias: Any = option(None, optional(array))
    check_labels: bool = option(False, boolean)

    def check_together(self) -> None:
        super().check_together()
        if self.inputs == "logits":
            return
        changed = {
            "temperature": self.temperature != 1.0,
            "softcap": self.softcap is not None,
            "class_bias": self.class_bias is not None,
            "class_mask": self.class_mask is not None,
            "z_loss": self.z_loss != 0.0,
        }
        for name, is_set in changed.items():
            if is_set:
                raise ValueError(
                    f'{name} needs inputs="logits", got inputs={self.inputs!r}: probabilities are taken as they are, '
                    "never transformed or renormalised"
                )


def byte_count(name: str, value: Any) -> int:
    count = integer(name, value)
    if count < 1:
        raise ValueError(f"{name} is a number of bytes, got {value!r}")
    return count


@with_table
@dataclasses.dataclass(init=False, eq=False)
class LinearOptions(LossOptions):
    """Options of the softmax loss of a linear classifier, whose logits have their classes last."""

    memory_budget: int | None = option(None, optional(byte_count))


del LinearOptions.table["axis"], LinearOptions.plain["axis"]


@with_table
@dataclasses.dataclass(init=False, eq=False)
class BinaryOptions(SharedOptions):
    """Options of the sigmoid loss."""

    pos_weight: Any = option(None, optional(array))


def reader_of(options_type: type[Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """Reads the options of one function, given in the order of its signature.

    The function's defaults become the very objects of the table, so that ``is`` tells what was not given; a plain call
    gets one shared object. By keyword the same costs 4 us, as much as the loss of a small batch.
    """
    defaults: dict[str, Any] = function.__kwdefaults__  # type: ignore[assignment]
    for name, default in defaults.items():
        if default != options_type.plain[name]:
            raise ValueError(f"{function.__name__}: {name}={default!r}, but {options_type.plain[name]!r} in the table")
        defaults[name] = options_type.plain[name]
    names, objects, plain = tuple(defaults), tuple(defaults.values()), options_type()

    def read(*given: Any) -> Any:
        if not any(map(operator.is_not, given, objects)):
            return plain
        changed = zip(names, given, objects, strict=True)
        return options_type(**{name: value for name, value, default in changed if value is not default})

    return read


def takes_options_of(source: Callable[..., Any], *, without: tuple[str, ...] = ()) -> Callable[[Function], Function]:
    """Give a function that ends in ``**options`` the keyword arguments of ``source`` as its signature."""
    given = inspect.signature(source).parameters.values()
    keywords = [p for p in given if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name not in without]

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        function.__signature__ = signature.replace(parameters=own + keywords)  # type: ignore[attr-defined]
        return function

    return decorate


def make_options(options_type: type[Any], given: dict[str, Any]) -> Any:
    """``options_type(**given)``, with a hint for a name that does not exist."""
    names = options_type.defaults()
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; the options are {', '.join(names)}"
            raise TypeError(f"unknown option {name!r}{hint}")
    return options_type(**given)
