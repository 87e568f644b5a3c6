"""Bad input: each kind is kept with its reason, or applied; what came with it lands, and nothing is lost."""

from __future__ import annotations

import contextlib
import itertools
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from django_cqrs_celery import intake
from django_cqrs_celery.dataclasses import encode_message
from django_cqrs_celery.models import DeadLetter, Tombstone
from tests.fidelity import hooked
from tests.fidelity.replicas import models as fidelity
from tests.replica_app import models as replica

T = "2024-01-01T00:00:00+00:00"


def change(pk=1, revision=0, cqrs_id="author", **changed):
    """A good change of an author, but for what the test puts in its place; ``...`` takes a key away."""
    data = {
        "signal_type": "SAVE", "cqrs_id": cqrs_id, "instance_pk": pk, "previous_data": None, "correlation_id": None,
        "expires": None, "retries": 0, "meta": None,
        "instance_data": {
            "id": pk, "name": f"author {pk}", "email": None, "born": None, "rating": 0, "cqrs_revision": revision,
            "cqrs_updated": T,
        },
    }  # fmt: skip
    for key, value in changed.items():
        (data if key in data or key == "force" else data["instance_data"])[key] = value
    for part in (data, data["instance_data"] if isinstance(data["instance_data"], dict) else {}):
        for key in [key for key, value in part.items() if value is ...]:
            del part[key]
    return data


def body(*changes):
    return encode_message([json.dumps(item) for item in changes])


def take(*bodies):
    answer = intake.take(bodies)
    assert answer.again is None, answer.again
    return answer


@contextlib.contextmanager
def case(name):
    """One line of a table: empty tables before it, its name with what fails in it."""
    DeadLetter.objects.all().delete()
    replica.Author.objects.all().delete()
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{name}: {error}") from error


def author_ids():
    return sorted(replica.Author.objects.values_list("id", flat=True))


BODIES = {
    "no JSON": b"no json at all",
    "empty": b"",
    "a number": b"123",
    "null": b"null",
    "a text": b'"text"',
    "an object": b'{"changes": []}',
    "an empty list": b"[]",
    "no kwargs": b"[[], null, {}]",
    "no changes": b"[[], {}, {}]",
    "changes that are no list": b'[[], {"version": 1, "changes": {"a": 1}}, {}]',
    "no UTF-8": b"\xff\xfe\x00[",
    "NUL": b"a\x00b",
    "half of a character, as text": "[\ud800",
    "cut off": body(change())[:-20],
    "nested too deep": b"[" * 100_000,
    "a number of 5,000 digits": b"[[], {\"changes\": [" + b"1" * 5000 + b"]}, {}]",
}  # fmt: skip


def test_bodies_that_cannot_be_read(engine):
    for name, raw in BODIES.items():
        with case(name):
            answer = take(body(change(1)), raw, body(change(2)))
            assert (answer.applied, answer.failed) == (2, 1)
            assert author_ids() == [1, 2]
            letter = DeadLetter.objects.get()
            assert letter.status == "dead"
            assert letter.error_class == "django_cqrs_celery.exceptions.DecodeError"
            assert letter.error_message
            text = raw if isinstance(raw, str) else raw.decode("utf-8", "backslashreplace")
            assert letter.payload == text.replace("\x00", "\\u0000").replace("\ud800", "\\ud800")


HUGE = 10**40
LONG = "x" * 300
CHANGES = {
    "a number": (123, "expected an object"),
    "null": (None, "expected an object"),
    "a list": ([1], "expected an object"),
    "deep": (json.loads("[" * 500 + "]" * 500), "expected an object"),
    "empty": ({}, "lacks signal_type, cqrs_id, instance_pk"),
    "no signal_type": (change(9, signal_type=...), "lacks signal_type"),
    "unknown signal_type": (change(9, signal_type="MERGE"), "MERGE"),
    "signal_type that is no text": (change(9, signal_type={"a": 1}), "signal_type"),
    "no cqrs_id": (change(9, cqrs_id=None), "lacks cqrs_id"),
    "cqrs_id that is no text": (change(9, cqrs_id=5), "cqrs_id is int"),
    "no instance_pk": (change(9, instance_pk=...), "lacks instance_pk"),
    "instance_pk that is an object": (change(9, instance_pk={"a": 1}), "instance_pk is dict"),
    "instance_pk that is a boolean": (change(9, instance_pk=True), "instance_pk is bool"),
    "instance_pk that is too long": (change(LONG), "longer than 255"),
    "no instance_data": (change(9, instance_data=...), "instance_data"),
    "instance_data that is a list": (change(9, instance_data=[]), "instance_data"),
    "no revision": (change(9, cqrs_revision=...), "cqrs_revision is NoneType"),
    "a revision that is text": (change(9, revision="1"), "cqrs_revision is str"),
    "a revision that is a boolean": (change(9, revision=True), "cqrs_revision is bool"),
    "a revision that is a fraction": (change(9, revision=1.5), "cqrs_revision is float"),
    "a negative revision": (change(9, revision=-1), "between 0 and"),
    "a huge revision": (change(9, revision=HUGE), "between 0 and"),
    "a revision past the column": (change(9, revision=2**31), "between 0 and"),
    "expires that is no time": (change(9, expires="tomorrow"), "expires"),
    "expires that is a number": (change(9, expires=5), "expires"),
    "expires that is an object": (change(9, expires={}), "expires"),
    "previous_data that is a list": (change(9, previous_data=[1]), "previous_data is list"),
    "wrapped meta that is no JSON": (change(9, meta={"$cqrs:json": "no json"}), "meta"),
    "unknown signal_type with NUL": (change(9, signal_type="a\x00b\ud800"), "signal_type"),
}  # fmt: skip


def test_changes_that_cannot_be_read(engine):
    for name, (bad, reason) in CHANGES.items():
        with case(name):
            answer = take(body(change(1), bad, change(2)), body(change(3)))
            assert (answer.applied, answer.failed) == (3, 1)
            assert author_ids() == [1, 2, 3]
            letter = DeadLetter.objects.get()
            assert letter.status == "dead"
            assert reason in letter.error_message
            assert json.loads(letter.payload) == bad


VALUES = {
    "unknown CQRS_ID": (change(9, cqrs_id="nobody"), "UnknownCQRSId"),
    "CQRS_ID with NUL": (change(9, cqrs_id="a\x00b"), "UnknownCQRSId"),
    "CQRS_ID of half a character": (change(9, cqrs_id="\ud800"), "UnknownCQRSId"),
    "long CQRS_ID": (change(9, cqrs_id=LONG), "UnknownCQRSId"),
    "expired": (change(9, expires="2020-01-01T00:00:00+00:00"), "ExpiredChange"),
    "pk of text": (change("nine"), "ApplyError"),
    "pk with NUL": (change("a\x00b"), "ApplyError"),
    "pk that is a fraction": (change(1.5), "ApplyError"),
    "pk past the column": (change(HUGE), ""),
    "no pk in the data": (change(9, id=...), "ApplyError"),
    "a number for a date": (change(9, born=5), "ApplyError"),
    "a word for a date": (change(9, born="today"), "ApplyError"),
    "a date that is none": (change(9, born="2023-02-29"), ""),
    "text for a number": (change(9, rating="much"), "ApplyError"),
    "a boolean for a number": (change(9, rating=True), "ApplyError"),
    "an object for a text": (change(9, name={"a": 1}), "ApplyError"),
    "a list for a text": (change(9, name=[1]), "ApplyError"),
    "null where none is allowed": (change(9, name=None), "IntegrityError"),
    "a required field is missing": (change(9, name=...), ""),
    "a number past the column": (change(9, rating=HUGE), ""),
    "half of a character": (change(9, name="\ud800"), ""),
    "time that is none": (change(9, cqrs_updated="then"), "ApplyError"),
    "time out of range": (change(9, cqrs_updated="0001-01-01T00:00:00+14:00"), ""),
    "long correlation id": (change("nine", correlation_id=LONG), "ApplyError"),
    "correlation id that is no text": (change("nine", correlation_id={"a": "\x00"}), "ApplyError"),
    "huge count of retries": (change("nine", retries=HUGE), "ApplyError"),
}  # fmt: skip


@pytest.mark.parametrize("way", hooked.WAYS)
def test_changes_that_cannot_be_applied(way, engine, monkeypatch):
    hooked.take_way(way, monkeypatch, replica.Author)
    for name, (bad, error) in VALUES.items():
        with case(name):
            check_that_it_is_kept(bad, error)


def check_that_it_is_kept(bad, error):
    answer = take(body(change(1), bad, change(2)), body(change(3)))
    assert (answer.applied, answer.failed) == (3, 1)
    assert author_ids() == [1, 2, 3]
    letter = DeadLetter.objects.get()
    assert error in letter.error_class
    assert letter.error_message
    assert letter.status == ("dead" if error == "ExpiredChange" else "pending")
    kept = json.loads(letter.payload)
    assert kept["instance_data"] == bad["instance_data"]
    assert kept["instance_pk"] == bad["instance_pk"]
    # It is tried again, and the next good change of the row is applied.
    DeadLetter.objects.filter(status="pending").update(next_retry_at=T)
    assert intake.retry_due().again is None
    take(body(change(9, 5)))
    assert author_ids() == [1, 2, 3, 9]
    assert DeadLetter.objects.count() == 1


@pytest.mark.parametrize("way", hooked.WAYS)
def test_what_some_databases_cannot_hold(way, engine, monkeypatch):
    hooked.take_way(way, monkeypatch, replica.Author)
    take(body(change(1), change(2, name="a\x00b"), change(3, name="y" * 101), change(4)))
    kept = {json.loads(letter.payload)["instance_pk"] for letter in DeadLetter.objects.all()}
    assert kept == {"sqlite": set(), "postgresql": {2, 3}, "mariadb": {3}}[engine]
    assert set(author_ids()) | kept == {1, 2, 3, 4}
    assert not set(author_ids()) & kept


@pytest.mark.parametrize("way", hooked.WAYS)
def test_text_keys_that_no_table_can_hold(way, engine, monkeypatch):
    hooked.take_way(way, monkeypatch, fidelity.Word)
    for pk, signal_type in itertools.product([LONG, "a\x00b", "\ud800"], ["SAVE", "DELETE"]):
        with case(f"{signal_type} {pk[:5]!r}"):
            fidelity.Word.objects.all().delete()
            Tombstone.objects.filter(cqrs_id="word").delete()
            words = [change(p, cqrs_id="word", text=p, note="n") for p in ("first", pk, "last")]
            words[1]["signal_type"] = signal_type
            take(body(*words))
            there = set(fidelity.Word.objects.values_list("pk", flat=True))
            tombstones = set(Tombstone.objects.filter(cqrs_id="word").values_list("instance_pk", flat=True))
            assert there >= {"first", "last"}
            others = there - {"first", "last"}
            if signal_type == "SAVE":
                assert others <= {pk} and not tombstones
                assert len(others) + DeadLetter.objects.count() == 1
            else:
                assert not others and tombstones <= {pk}
                assert len(tombstones) + DeadLetter.objects.count() == 1


def test_the_good_changes_of_one_message_are_not_applied_twice_for_a_bad_one(engine):
    take(body(change(1), change("nine"), change(1, 1, name="newer")))
    assert replica.Author.objects.values_list("name", "cqrs_revision").get() == ("newer", 1)


def test_more_than_was_asked_for(engine):
    """Keys that are not known, and a version that is newer, are no reason to refuse."""
    more = {**change(1, shoe_size=43), "future": {"a": [1]}, "retries": "many"}
    data = {"version": 99, "changes": [more], "compression": None}
    take(json.dumps([[], data, {"chord": None}]).encode())
    assert author_ids() == [1]
    assert not DeadLetter.objects.exists()


def test_a_message_of_no_changes(engine):
    assert take(body()).applied == 0
    assert not DeadLetter.objects.exists()


def test_meta_and_custom_delete_data_come_as_they_were(engine, monkeypatch):
    seen = []

    def cqrs_delete(cls, master_data, meta=None):
        seen.append((master_data["custom"], meta))
        return True

    monkeypatch.setattr(fidelity.Word, "CQRS_META", True)
    monkeypatch.setattr(fidelity.Word, "cqrs_delete", classmethod(cqrs_delete))
    hostile = {"__type__": "x", "__value__": 1}
    wrapped = {"$cqrs:json": json.dumps(hostile)}
    gone = change("w", cqrs_id="word", text="w", signal_type="DELETE", meta=wrapped, custom=wrapped)
    take(body(gone))
    assert seen == [(hostile, hostile)]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = [*change(), *change()["instance_data"]]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(KEYS), json_values, min_size=1, max_size=3))
def test_whatever_stands_in_a_change(engine, changed):
    bad = change(9)
    for key, value in changed.items():
        if key in bad:
            bad[key] = value
        elif isinstance(bad["instance_data"], dict):
            bad["instance_data"][key] = value
    with case(changed):
        take(body(change(1), bad, change(2)))
        assert {1, 2} <= set(author_ids())
        assert len(author_ids()) - 2 + DeadLetter.objects.count() == 1
