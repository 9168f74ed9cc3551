"""Reading the next batch while this one is evaluated."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_END = object()


def read_ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items, each asked for on another thread while the one before is being used; one is kept ready."""
    iterator = iter(items)
    with ThreadPoolExecutor(1, "read-ahead") as reader:
        following = reader.submit(next, iterator, _END)
        while (item := following.result()) is not _END:
            following = reader.submit(next, iterator, _END)
            yield item  # type: ignore[misc]
