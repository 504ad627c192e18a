"""The cache hands out what it holds without copying, and a row keeps nothing of who had it before."""

import tracemalloc

import numpy as np
import pytest

from service.generation.caches import Cache
from service.generation.sessions import CacheShape

SHAPES = {"past_key_0": CacheShape(2, 3), "past_value_4": CacheShape(1, 5)}


@pytest.fixture
def cache() -> Cache:
    """Three rows in use, with room for four tokens, of which two are written."""
    cache = Cache(SHAPES, rows=6)
    cache.resize(4, rows=0)
    cache.clear(range(3))
    for row in range(3):
        cache.write(row, {name: np.full((1, shape.heads, 2, shape.head_size), row + 1) for name, shape in SHAPES.items()})
    return cache


def test_feed_copies_nothing(cache: Cache):
    """What a graph reads is the memory of the cache, in one piece."""
    first, again = cache.feed(3), cache.feed(3)
    for name, shape in SHAPES.items():
        assert first[name].shape == (3, shape.heads, 4, shape.head_size)
        assert first[name].flags.c_contiguous
        assert np.shares_memory(first[name], again[name])


def test_resizing_holds_one_tensor_twice_and_no_more():
    """Tensors get their new room one after the other, so that a cache that grows does not need twice its memory."""
    old, new = (8 * 4 * room * 64 * 4 for room in (32, 64))
    tracemalloc.start()
    try:
        cache = Cache({f"past_key_{index}": CacheShape(4, 64) for index in range(8)}, rows=8)
        cache.resize(32, rows=8)
        before, _ = tracemalloc.get_traced_memory()
        cache.resize(64, rows=8)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 8 * (new - old) < peak - before < 8 * (new - old) + 2 * old
    assert all(values.shape[2] == 64 for values in cache.feed(8).values())


def test_append_writes_behind_each_row(cache: Cache):
    """Rows of different lengths get their token at their own place, and nothing else changes."""
    before = {name: values.copy() for name, values in cache.feed(3).items()}
    lengths = np.array([2, 0, 3])
    cache.append({name: np.full((3, shape.heads, 1, shape.head_size), 9) for name, shape in SHAPES.items()}, lengths)
    for name, values in cache.feed(3).items():
        before[name][np.arange(3), :, lengths] = 9
        np.testing.assert_array_equal(values, before[name])


@pytest.mark.parametrize("room", [2, 9])
def test_resizing_keeps_what_fits(cache: Cache, room: int):
    """Rows in use have their tokens in more room and in less; the rest of them is empty."""
    before = {name: values.copy() for name, values in cache.feed(3).items()}
    cache.resize(room, rows=3)
    for name, values in cache.feed(3).items():
        np.testing.assert_array_equal(values[:3, :, :2], before[name][:, :, :2])
        assert not values[:3, :, 2:].any()
        assert values.shape[2] == room


def test_a_cleared_row_holds_no_trace(cache: Cache):
    """Not even what is no number: it would go through a mask."""
    cache.append({name: np.full((1, shape.heads, 1, shape.head_size), np.nan) for name, shape in SHAPES.items()}, np.array([3]))
    cache.clear([0])
    for values in cache.feed(3).values():
        assert not values[0].any()
        assert values[1].any()


def test_a_copy_holds_the_same_tokens(cache: Cache):
    """The row that is copied stays as it is."""
    cache.copy(0, 2, 1)
    for values in cache.feed(3).values():
        np.testing.assert_array_equal(values[2, :, 0], values[0, :, 0])
        assert (values[2, :, 1] == 3).all()
        assert (values[0, :, :2] == 1).all()
