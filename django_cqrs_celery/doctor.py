"""Examines the installation that it runs in: settings, databases, broker, queues, beat; each trouble with its cure.

It changes nothing. To see whether a binding is there it sends an empty message the way a change would go.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from django.core import checks
from kombu import Queue
from kombu.transport import virtual

from django_cqrs_celery import conf, schedules, status, topology
from django_cqrs_celery.constants import TASK_RELAY, TASK_RETRY, TASK_SYNC
from django_cqrs_celery.dataclasses import encode_message
from django_cqrs_celery.registries import MasterRegistry, ReplicaRegistry

#: Seconds that an outbox row may wait before nobody seems to publish.
OUTBOX_SECONDS = 60.0


class Level(str, enum.Enum):
    """How a finding is meant."""

    FINE = "fine"
    LOOK = "look"
    WRONG = "wrong"

    __str__ = str.__str__


@dataclass(frozen=True)
class Finding:
    """What was found of one thing: ``subject``, what is the matter with it, and what to do."""

    level: Level
    subject: str
    what: str
    cure: str = ""


def fine(subject: str, what: str) -> Finding:
    """All is well with it."""
    return Finding(Level.FINE, subject, what)


def look(subject: str, what: str, cure: str) -> Finding:
    """It may be meant."""
    return Finding(Level.LOOK, subject, what, cure)


def wrong(subject: str, what: str, cure: str) -> Finding:
    """Changes do not arrive because of it, or will not."""
    return Finding(Level.WRONG, subject, what, cure)


def examine() -> Iterator[Finding]:
    """Everything that can be told, one thing after the other; never raises for what is wrong."""
    for part in (_settings, _databases, _beat, _broker):
        try:
            yield from part()
        except Exception as error:  # the doctor says so, too, where it cannot look
            yield wrong(part.__name__.strip("_"), f"cannot be examined: {type(error).__name__}: {error}", "")


# --- this process --------------------------------------------------------------------------------------------------


def _settings() -> Iterator[Finding]:
    found = [each for each in checks.run_checks(tags=["django_cqrs_celery"]) if not each.is_silenced()]
    for each in found:
        make = wrong if each.level >= checks.ERROR else look
        yield make(f"check {each.id}", each.msg, each.hint or "")
    if not found:
        yield fine("settings and models", "pass all checks")
    if not MasterRegistry.models and not ReplicaRegistry.models:
        yield look("models", "there is no master and no replica model", "Give a model MasterMixin or ReplicaMixin.")


def _databases() -> Iterator[Finding]:
    for alias, found in status.gather()["databases"].items():
        subject = f"database {alias}"
        if "error" in found:
            yield wrong(subject, found["error"], f"Run manage.py migrate --database {alias}, or look at the server.")
            continue
        before = 0
        for finding in (*_outbox(subject, found.get("outbox")), *_letters(subject, found.get("dead_letters", {}))):
            before += 1
            yield finding
        if not before:
            yield fine(subject, "nothing waits and nothing failed")


def _outbox(subject: str, outbox: dict[str, Any] | None) -> Iterator[Finding]:
    if not outbox:
        return
    age = outbox["oldest_pending_seconds"]
    if age is not None and age > OUTBOX_SECONDS:
        yield wrong(
            subject,
            f"{outbox['pending']} changes wait in the outbox, the oldest for {age:.0f} seconds",
            "Run cqrs_relay and read what it says; then see that beat runs, or cqrs_relay --loop.",
        )
    if outbox["failed"]:
        yield wrong(
            subject,
            f"{outbox['failed']} outbox rows cannot be published",
            "Read their errors in the admin (outbox messages), mend the rows, and send them with cqrs_sync.",
        )


def _letters(subject: str, letters: dict[str, dict[str, int]]) -> Iterator[Finding]:
    dead = sum(letters.get("dead", {}).values())
    if dead:
        yield wrong(
            subject,
            f"{dead} dead letters are out of retries",
            "Run cqrs_dead_letters list --status dead; mend what they name; then cqrs_dead_letters retry.",
        )
    waiting = sum(sum(letters.get(name, {}).values()) for name in ("pending", "waiting"))
    if waiting:
        yield look(subject, f"{waiting} changes wait for another try or for their parents", "Look again in a minute.")


def _beat() -> Iterator[Finding]:
    app = topology.celery_app()
    if "django_celery_beat" in str(app.conf.beat_scheduler):
        yield look("beat", "its schedule is in the database", "See that it has the tasks of schedules.beat_schedule().")
        return
    scheduled = {entry.get("task") for entry in (app.conf.beat_schedule or {}).values()}
    needless = set() if MasterRegistry.models else {TASK_RELAY, TASK_SYNC}
    needless |= set() if ReplicaRegistry.models else {TASK_RETRY}
    wanted = {entry["task"] for entry in schedules.beat_schedule().values()} - needless
    missing = sorted(wanted - scheduled - {TASK_SYNC})
    if TASK_SYNC in wanted - scheduled:
        yield look("beat", "does not compare the replicas by digests", "Give beat_schedule() its sync_seconds.")
    if missing:
        yield wrong(
            "beat",
            f"the schedule lacks {', '.join(missing)}",
            "Merge schedules.beat_schedule() into CELERY_BEAT_SCHEDULE, and run celery beat.",
        )
    else:
        yield fine("beat", "the schedule has all tasks; whether celery beat runs is not to be seen from here")


# --- the broker ----------------------------------------------------------------------------------------------------


def _broker() -> Iterator[Finding]:
    app = topology.celery_app()
    base = app.connection_for_write()
    address = base.as_uri()  # without the password
    timeout = conf.publish_timeout()
    connection = base.clone(connect_timeout=timeout, heartbeat=0)
    try:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=timeout)
    except Exception as error:
        yield wrong("broker", f"{address} does not answer: {error}", "Start it, or correct CELERY_BROKER_URL.")
        return
    try:
        yield fine("broker", f"{address} answers")
        patient = _Patient(connection)
        yield from patient.exchange(conf.exchange.path, topology.exchange())
        if MasterRegistry.models:
            yield from patient.master(app)
        if ReplicaRegistry.models and conf.queue():
            yield from patient.replica(conf.queue() or "")
    finally:
        connection.release()


class _Patient:
    """A broker that answers, and questions to it."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.is_amqp = not isinstance(connection.default_channel, virtual.Channel)

    def ask(self, question: Callable[[Any], Any]) -> tuple[Any, str | None]:
        """The answer, or why there is none; on a channel of its own, which the broker closes with a refusal."""
        channel = self.connection.channel()
        try:
            return question(channel), None
        except self.connection.channel_errors as error:
            return None, str(getattr(error, "reply_text", error))
        finally:
            if getattr(channel, "is_open", True):
                channel.close()

    def exchange(self, path: str, exchange: Any) -> Iterator[Finding]:
        """Whether an exchange is there and of the right type."""
        subject = f"exchange {exchange.name}"
        if self.is_amqp:
            _, missing = self.ask(lambda channel: channel.exchange_declare(exchange.name, "topic", passive=True))
            if missing:
                yield look(subject, "is not there", "The first worker or publisher declares it: start one.")
                return
            _, other = self.ask(lambda channel: exchange(channel).declare())
            if other:
                yield wrong(subject, f"is there, but another: {other}", f"Delete it, or set {path} to another name.")
                return
        yield fine(subject, "is a durable topic exchange")

    def consumers(self, name: str) -> tuple[int, int] | None:
        """Messages and consumers of a queue; None where there is none. Not every broker knows of consumers."""
        declared, missing = self.ask(lambda channel: channel.queue_declare(name, passive=True))
        return None if missing else (declared.message_count, declared.consumer_count or 0)

    def queue(self, name: str, start: str) -> Iterator[Finding]:
        """Whether a queue is there and consumed; ``start`` says how to start what consumes it."""
        subject = f"queue {name}"
        found = self.consumers(name)
        if found is None:
            yield wrong(subject, "is not there", f"Start {start}: it declares the queue.")
        elif self.is_amqp and not found[1]:
            yield wrong(subject, f"has no consumer, and {found[0]} messages", f"Start {start}.")
        else:
            by = f", consumed by {found[1]} channels" if self.is_amqp else ""
            yield fine(subject, f"holds {found[0]} messages{by}")

    # -- master ------------------------------------------------------------------------------------------------------

    def master(self, app: Any) -> Iterator[Finding]:
        """What a master needs."""
        name = conf.master_queue() or app.conf.task_default_queue
        yield from self.queue(name, f"a worker for the master's tasks: celery -A <project> worker -Q {name}")
        for cqrs_id in sorted(MasterRegistry.models):
            yield from self.route(cqrs_id, None)
        legacy = conf.legacy_exchange()
        if legacy is not None:
            yield from self.exchange(conf.legacy_exchange.path, topology.legacy_exchange(legacy))

    def route(self, cqrs_id: str, queue: str | None) -> Iterator[Finding]:
        """Whether what is published for a CQRS_ID, or for one queue alone, reaches a queue."""
        key = topology.routing_key(cqrs_id, queue)
        if self.is_routed(key):
            yield fine(f"key {key}", "is bound to a queue")
        elif queue is None:
            yield look(
                f"key {key}",
                "no replica is bound for it; changes stay in the outbox",
                "Start a replica's worker, or list its queue in CQRS['master']['replicas'].",
            )
        else:
            yield wrong(f"key {key}", "is not bound", "Start the replica's worker anew: it binds its queue.")

    def is_routed(self, key: str) -> bool:
        """Whether an empty message with this key reaches a queue."""
        name = conf.exchange()
        channel = self.connection.channel()
        try:
            if not self.is_amqp:
                return bool(channel._lookup(name, key))
            returned: list[Any] = []
            channel.confirm_select()
            channel.events["basic_return"].add(lambda *args: returned.append(args))
            headers, properties = topology.headers(topology.celery_app(), 0)
            message = channel.prepare_message(
                encode_message([]), content_type="application/json", content_encoding="utf-8", headers=headers,
                properties={"delivery_mode": 2, **properties},
            )  # fmt: skip
            timeout = conf.publish_timeout()
            channel.basic_publish_confirm(
                message, exchange=name, routing_key=key, mandatory=True, timeout=timeout, confirm_timeout=timeout
            )
            return not returned
        except self.connection.channel_errors:
            return False  # there is no exchange, and that was said already
        finally:
            if getattr(channel, "is_open", True):
                channel.close()

    # -- replica -----------------------------------------------------------------------------------------------------

    def replica(self, name: str) -> Iterator[Finding]:
        """What a replica needs."""
        worker = f"the replica's worker: celery -A <project> worker -Q {name}"
        yield from self.queue(name, worker)
        if self.consumers(name) is None:
            return
        letters = conf.dead_letter_queue_name()
        if self.is_amqp:
            for queue in (topology.replica_queue(name, letters), topology.dead_letter_queue(letters)):
                yield from self.properties(queue)
        for cqrs_id in sorted(ReplicaRegistry.models):
            yield from self.route(cqrs_id, name)
        parked = self.consumers(letters)
        if parked and parked[0]:
            yield look(
                f"queue {letters}",
                f"holds {parked[0]} messages that no worker could read",
                "The replica's worker takes them into the table of dead letters: see that it runs.",
            )
        legacy = conf.legacy_queue()
        if legacy is not None:
            exchange = topology.legacy_exchange(conf.replica_legacy_exchange())
            yield from self.exchange(conf.replica_legacy_exchange.path, exchange)
            yield from self.queue(legacy, worker)

    def properties(self, queue: Queue) -> Iterator[Finding]:
        """Whether a queue is what the settings say."""
        if self.consumers(queue.name) is None:
            yield wrong(f"queue {queue.name}", "is not there", "Start the replica's worker: it declares the queue.")
            return
        _, other = self.ask(lambda channel: queue(channel).queue_declare())
        if other:
            yield wrong(
                f"queue {queue.name}",
                f"has other properties than the settings say: {other}",
                "Set CQRS['queue_type'] and CQRS['replica']['delivery_limit'] to what it has, or stop its workers, let"
                " it run empty, delete it, and start them again.",
            )


