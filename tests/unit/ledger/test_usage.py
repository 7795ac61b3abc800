"""The histogram of processing times: mergeable, and right within five in a hundred."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixorly_ledger.usage import bucket_of, quantile


@given(st.integers(100, 100_000_000))
def test_a_single_time_is_told_within_five_in_a_hundred(time_ms: int) -> None:
    assert quantile({bucket_of(time_ms): 1}, 0.5) == pytest.approx(time_ms, rel=0.055)


@given(st.lists(st.integers(100, 1_000_000), min_size=1), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_is_told_within_five_in_a_hundred(times_ms: list[int], share: float) -> None:
    exact = sorted(times_ms)[max(0, -int(-share * len(times_ms) // 1) - 1)]

    assert quantile(Counter(map(bucket_of, times_ms)), share) == pytest.approx(exact, rel=0.055)


@given(st.lists(st.integers(0, 10**6)), st.lists(st.integers(0, 10**6)))
def test_histograms_add_up(one: list[int], other: list[int]) -> None:
    added = Counter(map(bucket_of, one)) + Counter(map(bucket_of, other))

    assert added == Counter(map(bucket_of, one + other))


def test_there_is_no_quantile_of_nothing() -> None:
    assert quantile({}, 0.5) is None


def test_times_out_of_range_have_a_bucket_too() -> None:
    assert bucket_of(0) == bucket_of(1) == 0
    assert bucket_of(10**12) == bucket_of(10**15) == 200
