"""A worker among a project's other business: its start, what it consumes, what it does with what it cannot read."""

from __future__ import annotations

import json

import pytest

from tests import services
from tests.integration.harness import stop_all, wait_until
from tests.integration.system import system

#: Types of queues that a test runs with: the default one, or both where the type matters.
quorum = pytest.mark.parametrize("running", ["quorum"], indirect=True, scope="module")
both = pytest.mark.parametrize("running", ["quorum", "classic"], indirect=True, scope="module")


@pytest.fixture(scope="module")
def running(request, tmp_path_factory, vhost):
    """A master and one replica on RabbitMQ and PostgreSQL; the worker also consumes the project's default queue."""
    services.require("rabbitmq", "postgresql")
    folder = tmp_path_factory.mktemp("workers")
    with system(
        folder, engine="postgresql", broker="rabbitmq", vhost=vhost, replicas=("search",), queue_type=request.param,
        declared_by_master=False,
    ) as built:  # fmt: skip
        queues = f"{built.queue()},{built.search.env['TESTBED_DEFAULT_QUEUE']}"
        worker = built.search.worker("-c", "1", queues=queues)
        built.worker = worker
        yield built
        stop_all([worker])


def good_change(running, iso):
    """A change that has to come through, whatever came before it."""
    running.master.run("Country.objects.create(iso=iso, name='good')", iso=iso)
    running.wait_equal()


def problems(log):
    """Lines of a worker's log that complain."""
    words = ("WARNING", "ERROR", "CRITICAL", "Traceback", "Warning:")
    return [line for line in log.splitlines() if any(word in line for word in words) and "SecurityWarning" not in line]


@both
def test_starts_clean(running):
    assert problems(running.worker.log()) == []


@both
def test_shows_its_queue(running):
    assert f".> {running.queue()}" in running.worker.log()


@both
def test_without_an_outbox_left_over(running):
    """What was saved before the replica's queue was there comes in once it is."""
    good_change(running, "first")


@quorum
def test_ordinary_task_in_the_same_worker(running, tmp_path):
    path = tmp_path / "touched"
    running.search.run(
        "from search.tasks import touch\ntouch.apply_async((path,), queue=queue)",
        path=str(path), queue=running.search.env["TESTBED_DEFAULT_QUEUE"],
    )  # fmt: skip
    wait_until(path.exists, "an ordinary task of the project ran")


@both
def test_ordinary_task_in_the_replica_queue(running, tmp_path):
    """A task of the project that somebody sends to the replica's queue is run by the worker, as by any other."""
    path = tmp_path / "touched"
    running.search.run(
        "from search.tasks import touch\ntouch.apply_async((path,), exchange='', routing_key=queue)",
        path=str(path), queue=running.queue(),
    )  # fmt: skip
    wait_until(path.exists, "an ordinary task ran from the replica's queue")
    good_change(running, "ordinary")


@quorum
def test_worker_of_another_queue_leaves_the_replica_queue_alone(running):
    """A worker without the replica's queue in ``-Q`` starts no consumer on it."""
    other = running.search.worker("-c", "1", queues=running.search.env["TESTBED_DEFAULT_QUEUE"])
    try:
        assert "Consuming" not in other.log()
        assert f".> {running.queue()} " not in other.log()
        with running.broker.connection() as connection, connection.channel() as channel:
            assert channel.queue_declare(running.queue(), passive=True).consumer_count == 1
    finally:
        stop_all([other])


CHANGE = {
    "signal_type": "SAVE", "cqrs_id": "country", "instance_pk": "ok",
    "instance_data": {"iso": "ok", "name": "ok", "population": 1, "cqrs_revision": 0,
                      "cqrs_updated": "2024-01-01T00:00:00+00:00"},
    "previous_data": None, "correlation_id": None, "expires": None, "retries": 0, "meta": None,
}  # fmt: skip


def changed(**values):
    return {**CHANGE, **values}


def with_data(**values):
    return changed(instance_data={**CHANGE["instance_data"], **values})


def without(key):
    return {name: value for name, value in CHANGE.items() if name != key}


BODIES = {
    "no JSON": b"{not json",
    "no text": b"\xff\xfe\x00\x01",
    "empty": b"",
    "a number": b"123",
    "null": b"null",
    "no list of changes": json.dumps([[], {"version": 1}, {}]),
    "changes are no list": json.dumps([[], {"changes": {}}, {}]),
    "deep": b"[" * 100_000,
}
CHANGES = {
    "a change is a number": 7,
    "no cqrs_id": without("cqrs_id"),
    "no signal_type": without("signal_type"),
    "no instance_pk": without("instance_pk"),
    "no instance_data": without("instance_data"),
    "unknown cqrs_id": changed(cqrs_id="nobody_knows"),
    "unknown signal_type": changed(signal_type="EXPLODE"),
    "revision is no number": with_data(cqrs_revision="x"),
    "revision is huge": with_data(cqrs_revision=2**70),
    "wrong type for a field": with_data(population={"a": 1}),
    "text too long": with_data(name="x" * 500),
    "expires does not parse": changed(expires="tomorrow"),
    "surrogate in a text": with_data(name="\ud800"),
    "zero byte in a text": with_data(name="a\x00b"),
}


@quorum
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_body_that_cannot_be_read_is_kept(running, body):
    before = len(running.letters())
    headers = {"lang": "py", "task": "django_cqrs_celery.tasks.cqrs_apply", "id": "bad", "retries": 0}
    running.broker.publish(running.queue(), body, headers=headers)
    wait_until(lambda: len(running.letters()) == before + 1, "a dead letter holds the message")
    letter = running.letters()[-1]
    assert letter["status"] == "dead"
    assert letter["error_message"]


@quorum
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_change_that_cannot_be_applied_is_kept(running, change):
    """It is set aside alone: the good change of the same message lands."""
    running.search.run("Country.objects.filter(iso='beside').delete()\nDeadLetter.objects.all().delete()")
    good = changed(instance_pk="beside", instance_data={**CHANGE["instance_data"], "iso": "beside"})
    running.broker.publish_changes(running.queue(), change, good)
    wait_until(lambda: running.letters(), "a dead letter holds the change")
    assert running.letters()[-1]["error_message"]
    wait_until(lambda: running.search.run("result = Country.objects.filter(iso='beside').exists()"), "the other landed")
    running.search.run("Country.objects.filter(iso__in=['beside', 'ok']).delete()\nDeadLetter.objects.all().delete()")


@both
@pytest.mark.parametrize("headers", [{"task": "nobody.knows.it"}, {}, {"task": 7}], ids=["unknown", "none", "number"])
def test_message_of_no_known_task_is_kept(running, headers):
    """By the broker in its dead-letter queue, and from there in a dead letter."""
    parked = f"dead_letter_{running.queue()}"

    def kept():
        return running.broker.count(parked) + len(running.letters())

    before = kept()
    headers = {"lang": "py", "id": "x", "retries": 0, **headers} if headers else {}
    running.broker.publish(running.queue(), "[[], {}, {}]", headers=headers)
    wait_until(lambda: kept() > before, "the message is kept")


@both
def test_after_all_that_the_next_change_is_applied(running):
    good_change(running, "after")
    assert running.worker.is_alive
    assert "Traceback" not in running.worker.log()
