"""What is pure in digests: hashes of values, buckets, reading what came, throttling."""

from __future__ import annotations

import datetime

import pytest

from django_cqrs_celery import contents, digests
from django_cqrs_celery.exceptions import DecodeError
from django_cqrs_celery.serialization import JSON_WRAP


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        (contents.NUMBER, "12.50", "12.5"),
        (contents.NUMBER, 12.5, "12.500"),
        (contents.NUMBER, True, 1),
        (contents.NUMBER, 5, "5.00"),
        (contents.NUMBER, 1e20, "100000000000000000000"),
        (contents.NUMBER, "-0.0", 0),
        (contents.TIME, "2026-01-31T12:00:00+00:00", "2026-01-31T13:00:00+01:00"),
        (contents.JSON, {"a": 1, "b": 2.0}, {"b": 2, "a": 1}),
        (contents.JSON, {JSON_WRAP: '{"a": [1]}'}, {"a": [1]}),
        ("of a newer release", "x", "x"),
    ],
)
def test_equal_values_of_two_engines(kind, one, other):
    assert contents.canonical(kind, one) == contents.canonical(kind, other)


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        (contents.NUMBER, "123456789012345678.99", "123456789012345678.98"),
        (contents.NUMBER, None, 0),
        (contents.TEXT, None, "None"),
        (contents.TEXT, "a", "A"),
        (contents.TEXT, "1.50", "1.5"),
        (contents.TIME, "2026-01-31T12:00:00.000001+00:00", "2026-01-31T12:00:00+00:00"),
        (contents.JSON, [1, 2], [2, 1]),
        (contents.NUMBER, "NaN", "Infinity"),
    ],
)
def test_different_values(kind, one, other):
    assert contents.canonical(kind, one) != contents.canonical(kind, other)


def test_buckets_have_no_end():
    scheme = digests.Scheme(buckets=4, start=100, width=10)
    assert [scheme.bucket(str(pk)) for pk in (-5, 100, 109, 110, 139, 10**12)] == [0, 0, 0, 1, 3, 3]
    with pytest.raises(DecodeError):
        scheme.bucket("x")
    assert {digests.Scheme(buckets=4).bucket(str(n)) for n in range(100)} == {0, 1, 2, 3}


def test_there_and_back():
    now = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.timezone.utc)
    scheme = digests.Scheme(buckets=2, start=-1, width=3, since=now, until=now + datetime.timedelta(hours=1))
    assert digests.Scheme.from_dict(scheme.to_dict()) == scheme
    digest = digests.Digest.empty(2)
    digest.add(1, 3, 16**15 + 5)
    assert digests.Digest.from_dict(digest.to_dict(), 2) == digest
    assert digest.sums == [0, 5] and digest.differing(digests.Digest.empty(2)) == [1]


GOOD = digests.Scheme(buckets=2).to_dict()


@pytest.mark.parametrize(
    "data",
    [
        None, "scheme", {**GOOD, "algorithm": "sha"}, {**GOOD, "buckets": 0}, {**GOOD, "buckets": 10**9},
        {**GOOD, "buckets": True}, {**GOOD, "width": -1}, {**GOOD, "start": "1"}, {**GOOD, "since": "yesterday"},
        {**GOOD, "since": 5},
    ],
)  # fmt: skip
def test_schemes_that_are_none(data):
    with pytest.raises(DecodeError):
        digests.Scheme.from_dict(data)


@pytest.mark.parametrize(
    "data",
    [
        None, {}, {"counts": [1], "sums": "0" * 30}, {"counts": [1, 2], "sums": "0" * 29},
        {"counts": [1, 2], "sums": "g" * 30}, {"counts": [1, -2], "sums": "0" * 30},
        {"counts": [1, True], "sums": "0" * 30},
    ],
)  # fmt: skip
def test_digests_that_are_none(data):
    with pytest.raises(DecodeError):
        digests.Digest.from_dict(data, 2)


def test_throttle():
    slept = []
    throttle = digests.Throttle(100, slept.append)
    throttle(50)
    assert 0.4 < sum(slept) <= 0.5
    resting = digests.Throttle(None, slept.append)
    resting(50)
    assert slept[-1] < digests.LONGEST_REST
