"""Batches that are read ahead come in order, with their errors in place, and nothing is left open."""

import threading

import pytest

from crossentropy.evaluation.read_ahead import read_ahead


def test_items_come_in_order_from_one_other_thread():
    threads = set()

    def items():
        for i in range(100):
            threads.add(threading.current_thread())
            yield i

    assert list(read_ahead(items())) == list(range(100))
    assert len(threads) == 1
    assert threading.current_thread() not in threads
    assert not any(thread.is_alive() for thread in threads)
    assert list(read_ahead([])) == []


def test_an_error_comes_after_the_items_before_it():
    def items():
        yield 1
        yield 2
        raise ValueError("row 3")

    reading = read_ahead(items())
    assert [next(reading), next(reading)] == [1, 2]
    with pytest.raises(ValueError, match="row 3"):
        next(reading)


def test_no_more_than_asked_for_is_read_and_what_is_left_is_closed():
    read, closed = [], []

    def items():
        try:
            for i in range(100):
                read.append(i)
                yield i
        finally:
            closed.append(True)

    reading = read_ahead(items(), most=2)
    assert next(reading) == 0
    reading.close()
    assert closed == [True]
    assert len(read) <= 3
