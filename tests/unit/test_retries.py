"""When to try again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_cqrs_celery import retries


@pytest.mark.parametrize(
    ("should_retry", "delay", "decision"),
    [
        (True, 2, retries.Retry(delay=2.0)),
        (True, 0, retries.Retry(delay=0.0)),
        (True, -5, retries.Retry(delay=0.0)),
        (True, 0.25, retries.Retry(delay=0.25)),
        (False, 2, retries.GiveUp()),
    ],
)
def test_decide(should_retry, delay, decision):
    assert retries.decide(should_retry=should_retry, delay=delay) == decision


@given(st.integers(0, 10**6))
def test_backoff_is_capped_and_never_nothing(attempt):
    assert retries.BACKOFF_FIRST / 2 <= retries.backoff(attempt) <= retries.BACKOFF_CAP


def test_backoff_doubles_until_its_cap():
    ceilings = [max(retries.backoff(attempt, first=1, cap=10) for _ in range(300)) for attempt in range(6)]
    for ceiling, expected in zip(ceilings, [1, 2, 4, 8, 10, 10], strict=True):
        assert expected * 0.9 < ceiling <= expected


def test_backoff_jitters():
    assert len({retries.backoff(3) for _ in range(20)}) > 10
