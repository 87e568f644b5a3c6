"""What the gatherer does with a batch whose process is gone, or that failed in a way that nobody expected."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from django_cqrs_celery import applier, batching, intake
from django_cqrs_celery.intake import Answer
from django_cqrs_celery.models import Suspect


class Pool:
    """Keeps what it is given, for the test to answer."""

    limit = 1

    def __init__(self) -> None:
        self.given = []

    def apply_async(self, target, args, callback, error_callback):
        self.given.append((args[0] if len(args) == 1 else list(args), callback, error_callback))

    def answer(self, value):
        bodies, callback, error_callback = self.given.pop(0)
        (error_callback if isinstance(value, Exception) else callback)(value)
        return bodies


@pytest.fixture
def pool():
    return Pool()


@pytest.fixture
def gatherer(pool):
    made = batching.Gatherer(SimpleNamespace(pool=pool, hub=None, connection_errors=()))
    made.stored = []
    for body in ("first", "good", "bad"):
        made.add(
            batching._Held(
                body=body, identity=body, ack=lambda body=body: made.stored.append(body),
                reject=lambda body=body: made.stored.append(f"{body} rejected"),
            )  # fmt: skip
        )
    assert pool.answer(Answer(applied=1)) == ["first"]
    return made


@pytest.mark.parametrize("fault", [Answer(broken="RuntimeError"), RuntimeError("the process is gone")])
def test_the_message_at_fault_is_found_and_given_up(gatherer, pool, fault):
    assert pool.answer(fault) == ["good", "bad"]
    assert pool.answer(Answer(applied=1)) == ["good"]
    for _ in range(3):
        assert gatherer.stored == ["first", "good"]
        assert pool.answer(fault) == ["bad"]
    assert gatherer.stored == ["first", "good", "bad rejected"]
    assert not pool.given


def test_an_unexpected_error_is_not_called_a_lost_process(gatherer, pool, caplog):
    with caplog.at_level(logging.WARNING, logger="django_cqrs_celery.worker"):
        pool.answer(Answer(broken="RuntimeError"))
    assert "failed unexpectedly (RuntimeError)" in caplog.text
    assert "lost its process" not in caplog.text


@pytest.mark.django_db
def test_an_unexpected_error_is_logged_with_its_traceback_and_without_values(monkeypatch, caplog):
    def fail(*args):
        raise RuntimeError("secret" * 2)

    monkeypatch.setattr(applier, "apply", fail)
    with caplog.at_level(logging.ERROR, logger="django_cqrs_celery.intake"):
        assert intake.take(['[[], {"version": 1, "changes": []}, {}]']).broken == "RuntimeError"
    assert "in fail" in caplog.text
    assert "secretsecret" not in caplog.text


@pytest.mark.usefixtures("transactional_db")
@pytest.mark.parametrize("work", [lambda: intake.keep([("x", "why")]), intake.retry_due])
def test_an_unexpected_error_while_keeping_or_retrying_is_tried_again(monkeypatch, work):
    def fail(*args):
        raise RuntimeError

    monkeypatch.setattr(intake.dead_letters, "keep_unreadable", fail)
    monkeypatch.setattr(intake.dead_letters, "aliases", fail)
    assert work().again == "RuntimeError"


@pytest.mark.parametrize("slots", [1, 3])
def test_a_suspect_is_applied_alone_and_nothing_beside_it(pool, slots):
    pool.limit = slots
    gatherer = batching.Gatherer(SimpleNamespace(pool=pool, hub=None, connection_errors=()))
    stored = []
    for body in ("good", "came again", "came again too", "fresh"):
        again = body.startswith("came")
        gatherer.add(
            batching._Held(
                body=body, identity=body, ack=lambda body=body: stored.append(body), alone=again, suspect=again,
                reject=lambda body=body: stored.append(f"{body} rejected"),
            )  # fmt: skip
        )
    assert pool.answer(Answer(applied=1)) == ["good"]
    assert [given[0] for given in pool.given] == [["came again"] * 2]  # body and identity
    pool.answer(Answer(applied=1))
    assert [given[0] for given in pool.given] == [["came again too"] * 2]
    pool.answer(Answer(poison=True))
    assert pool.answer(Answer(applied=1)) == ["fresh"]
    assert stored == ["good", "came again", "came again too rejected", "fresh"]


def test_a_suspect_is_counted_before_it_is_applied_and_given_up_in_the_end(engine, monkeypatch, settings):
    settings.CQRS = {**settings.CQRS, "replica": {"delivery_limit": 2}}
    suspects = Suspect.objects.using(intake.dead_letter_alias())
    counts = []

    def die(bodies):
        counts.append(suspects.get().attempts)
        raise KeyboardInterrupt  # as far as a test can die

    monkeypatch.setattr(intake, "take", die)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            intake.take_suspect("body", "message")
    assert counts == [1, 2]
    assert intake.take_suspect("body", "message").poison
    assert not suspects.exists()
    monkeypatch.setattr(intake, "take", lambda bodies: Answer(again="OperationalError"))
    for _ in range(5):
        assert intake.take_suspect("body", "message").again  # a database that is away is no death


def held(body, stored):
    return batching._Held(
        body=body, identity=body, ack=lambda: stored.append(body), reject=lambda: stored.append(f"{body} rejected")
    )


@pytest.fixture
def idle(pool):
    return batching.Gatherer(SimpleNamespace(pool=pool, hub=None, connection_errors=()))


def test_a_message_whose_copy_has_landed_is_acknowledged_unapplied(idle, pool):
    stored = []
    idle.try_copy("the change", "the change")
    assert pool.answer(True) == "the change"
    idle.add(held("the change", stored))
    assert stored == ["the change"]
    assert not pool.given
    idle.add(held("the change", stored))  # delivered again: it is known no more, and applied as a duplicate
    assert pool.answer(Answer(applied=1)) == ["the change"]


def test_a_message_that_came_while_its_copy_was_applied_is_acknowledged_unapplied(idle, pool):
    stored = []
    idle.try_copy("the change", "the change")
    idle.add(held("the change", stored))
    assert len(pool.given) == 1
    assert not stored
    pool.answer(True)
    assert stored == ["the change"]
    assert not pool.given


def test_a_copy_that_hangs_holds_no_other_process_up(idle, pool):
    pool.limit = 2
    stored = []
    idle.try_copy("copy", "the change")
    idle.add(held("the change", stored))
    idle.add(held("another", stored))
    _, on_answer, _ = pool.given.pop(0)
    assert pool.answer(Answer(applied=1)) == ["the change"]
    on_answer(False)
    assert pool.answer(Answer(applied=1)) == ["another"]
    assert stored == ["the change", "another"]


@pytest.mark.parametrize("outcome", [False, RuntimeError("the process is gone")])
def test_a_copy_that_was_of_no_use_leaves_the_message_as_it_is(idle, pool, outcome):
    stored = []
    idle.try_copy("the change", "the change")
    idle.add(held("the change", stored))
    pool.answer(outcome)
    assert not stored
    assert pool.answer(Answer(applied=1)) == ["the change"]
    assert stored == ["the change"]


def test_a_copy_is_dropped_where_there_is_work(idle, pool):
    stored = []
    idle.add(held("first", stored))
    idle.try_copy("second", "second")
    assert pool.answer(Answer(applied=1)) == ["first"]
    assert not pool.given
    idle.close()
    idle.try_copy("third", "third")
    assert not pool.given


def test_copies_are_not_remembered_for_ever(idle, pool):
    for number in range(batching._COPIES_REMEMBERED + 5):
        idle.try_copy("body", str(number))
        pool.answer(True)
    assert len(idle._landed_ahead) == batching._COPIES_REMEMBERED
