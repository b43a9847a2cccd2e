"""What is said of samples: nearest rank, no guess beyond them; ratios with intervals; bends of
curves; sizes and shapes.
"""

from __future__ import annotations

import math
import random

import pytest

import kinfolk as kin
from kinfolk.bench.bends import bend
from kinfolk.bench.sizes import Shape, format_size, parse_size
from kinfolk.bench.statistics import paired_ratio, percentile, spread, tail, unpaired_ratio


@pytest.mark.parametrize(
    ("level", "is_sample"), [(50, 500), (90, 900), (99, 990), (99.9, 999), (100, 1000), (0.01, 1)]
)
def test_a_percentile_is_a_sample(level, is_sample):
    assert percentile(list(range(1, 1001)), level) == is_sample


def test_the_tail_goes_as_far_as_the_samples():
    assert set(tail(range(100))) == {"p50", "p75", "p90", "p95", "p99", "max"}
    assert tail(range(1, 1001))["p99.9"] == 999
    assert "p99.9" not in tail(range(999))
    assert set(tail([7])) == {"max"}
    assert tail([]) == {}


def test_the_tail_does_not_care_for_order():
    samples = list(range(5000))
    shuffled = random.Random(1).sample(samples, len(samples))
    assert tail(shuffled) == tail(samples)


def test_one_slow_message_moves_the_tail_and_not_the_middle():
    assert tail([10] * 999 + [10_000])["p50"] == 10
    assert tail([10] * 999 + [10_000])["max"] == 10_000


def test_spread():
    assert spread([8, 10, 12]) == pytest.approx(0.4)
    assert spread([5]) == 0


def test_a_ratio_of_rounds_does_not_see_what_both_have_met():
    weather = [1, 3, 2, 10, 5]
    found = paired_ratio([2 * w for w in weather], weather)
    assert found.ratio == pytest.approx(2)
    assert found.low == pytest.approx(2)
    assert found.certain


def test_the_interval_is_students():
    # Logarithms 0.1, 0.2, 0.3: mean 0.2, deviation 0.1; t(2) = 4.303.
    found = paired_ratio([math.exp(x) for x in (0.1, 0.2, 0.3)], [1, 1, 1])
    width = 4.303 * 0.1 / math.sqrt(3)
    assert found.ratio == pytest.approx(math.exp(0.2))
    assert found.low == pytest.approx(math.exp(0.2 - width))
    assert found.high == pytest.approx(math.exp(0.2 + width))
    assert not found.certain


def test_one_round_has_no_interval():
    found = paired_ratio([3], [2])
    assert found.ratio == pytest.approx(1.5)
    assert found.low is found.high is None
    assert not found.certain


def test_rounds_of_two_runs():
    found = unpaired_ratio([20, 21, 19, 20], [10, 10.5, 9.5, 10])
    assert found.ratio == pytest.approx(2, rel=0.01)
    assert found.certain
    assert not unpaired_ratio([10, 20, 5, 11], [11, 9, 21, 6]).certain


@pytest.mark.parametrize(
    ("costs", "where"),
    [
        ([10, 9, 10, 11], None),
        ([10, 10, 30, 40], 3),
        ([10, 30, 10, 10], None),  # one bad point is no bend
        ([30, 10, 14, 16], 4),
        ([5], None),
        ([], None),
    ],
)
def test_a_curve_bends_where_it_stays_dearer(costs, where):
    assert bend(list(enumerate(costs, 1))) == where


@pytest.mark.parametrize(
    ("text", "size"),
    [("48", 48), ("4KiB", 4096), ("4k", 4096), ("8 MiB", 8 << 20), ("1g", 1 << 30)],
)
def test_sizes(text, size):
    assert parse_size(text) == size
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "4.5k", "4 kb/s", "x"])
def test_sizes_that_make_no_sense(text):
    with pytest.raises(kin.InvalidValue, match="makes no sense"):
        parse_size(text)


def test_shapes():
    assert Shape.parse("4x1") == (4, 1)
    assert str(Shape(4, 1)) == "4×1"
    for text in ("4", "0x1", "1x1000", "axb"):
        with pytest.raises(kin.InvalidValue, match="makes no sense"):
            Shape.parse(text)
