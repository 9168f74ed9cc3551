"""Reading the next batches while this one is evaluated."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_END = object()


def read_ahead(items: Iterable[T], most: int = 2) -> Iterator[T]:
    """The same items, asked for on another thread while those before are being used; at most so many wait.

    What the items raise comes where the item would have come. The items are closed with the iterator.
    """
    iterator = iter(items)
    reader = ThreadPoolExecutor(1, "read-ahead")
    try:
        waiting = deque(reader.submit(next, iterator, _END) for _ in range(most))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(reader.submit(next, iterator, _END))
            yield item  # type: ignore[misc]
    finally:
        reader.shutdown(cancel_futures=True)
        if hasattr(iterator, "close"):
            iterator.close()
