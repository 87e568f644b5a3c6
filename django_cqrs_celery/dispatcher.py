"""Dispatch and relay: claim what the outbox promises, publish it, and take the broker's word before forgetting it.

One function, ``publish_once``, does it for everybody: the thread that a save wakes, the saving thread itself, and the
relay. A crash anywhere in it leaves the outbox rows, which are then published again; replicas absorb that.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from amqp.exceptions import MessageNacked
from django.db.models import F, Max
from kombu import Producer
from kombu.transport import virtual

from django_cqrs_celery import bridge, conf, express, outbox, retries, topology
from django_cqrs_celery.constants import TASK_APPLY, SignalType
from django_cqrs_celery.dataclasses import decode_message, encode_note
from django_cqrs_celery.exceptions import PublishError, Rejected, Unroutable
from django_cqrs_celery.models import OutboxMessage
from django_cqrs_celery.querysets import new_token

logger = logging.getLogger("django_cqrs_celery.dispatcher")

#: Seconds before a change is tried again for which no queue was bound.
UNROUTABLE_PAUSE = 15.0
#: Longest pause before a change is sent again that a full queue has refused.
REJECTED_PAUSE = 15.0


class Publishes(Protocol):
    """What publishes messages."""

    def publish(self, message: outbox.Message) -> None:
        """Publish and wait for the confirm. Raises ``PublishError``: ``Unroutable`` where no queue is bound,
        ``Rejected`` where one is full."""


class Publisher:
    """A broker connection of its own, with confirms; any doubt closes it."""

    def __init__(self) -> None:
        self._connection: Any = None
        self._producer: Any = None
        self._copies = express.Copies()
        self._returned: list[str] = []

    def publish(self, message: outbox.Message) -> None:
        """Publish and wait for the confirm. Raises ``PublishError``: ``Unroutable`` where no queue is bound,
        ``Rejected`` where one is full."""
        app = topology.celery_app()
        if app.conf.task_always_eager:
            app.tasks[TASK_APPLY].apply(kwargs={"changes": decode_message(message.body)}, throw=True)
            return
        headers, properties = topology.headers(app, message.changes)
        key = topology.routing_key(message.cqrs_id, message.queue)
        legacy = conf.legacy_exchange()
        foreign = bridge.bodies(message.body) if legacy else []
        with self._telling(key):
            producer = self._open(app)
            self._copies.send(self._connection, message, headers, properties)
            taken = self._send(
                producer, topology.exchange(), key, message.body, content_type="application/json", headers=headers,
                **properties,
            )  # fmt: skip
            for body in foreign:
                exchange = topology.legacy_exchange(legacy or "")
                taken = self._send(producer, exchange, key, body, content_type="text/plain") or taken
        if not taken:
            either = repr(conf.exchange()) if legacy is None else f"{conf.exchange()!r} or {legacy!r}"
            raise Unroutable(f"No queue is bound to exchange {either} with key {key!r}.")

    def send(self, task: str, note: Mapping[str, Any], key: str) -> int:
        """Publish a note between master and replica, a message of the task, and wait for the confirm.

        Returns its size in bytes. Raises ``PublishError`` as ``publish`` does.
        """
        app, body = topology.celery_app(), encode_note(note)
        if app.conf.task_always_eager:
            app.tasks[task].apply(kwargs=dict(note), throw=True)
            return len(body)
        headers, properties = topology.headers(app, 0, task, f"({note['cqrs_id']} {note['kind']})")
        with self._telling(key):
            taken = self._send(
                self._open(app), topology.exchange(), key, body, content_type="application/json", headers=headers,
                **properties,
            )  # fmt: skip
        if not taken:
            raise Unroutable(f"No queue is bound to exchange {conf.exchange()!r} with key {key!r}.")
        return len(body)

    @contextlib.contextmanager
    def _telling(self, key: str) -> Iterator[None]:
        """Turn what goes wrong while publishing into the errors that callers know."""
        try:
            yield
        except MessageNacked as error:
            self._renew_channel()
            raise Rejected(f"A queue took no message with key {key!r}: it is full, or cannot store it.") from error
        except Exception as error:  # whatever it was: without a confirm nothing is known, and the connection is suspect
            self._copies.pause()
            self.close()
            raise PublishError(f"The broker did not take a message: {type(error).__name__}: {error}") from error

    def _send(self, producer: Any, exchange: Any, key: str, body: bytes, **properties: Any) -> bool:
        """Publish one message and wait for its confirm; whether any queue was bound for it."""
        self._returned.clear()
        if isinstance(producer.channel, virtual.Channel) and not producer.channel._lookup(exchange.name, key):
            return False
        timeout = conf.publish_timeout()
        producer.publish(
            body, exchange=exchange, routing_key=key, content_encoding="utf-8", delivery_mode=2, mandatory=True,
            retry=False, timeout=timeout, confirm_timeout=timeout, **properties,
        )  # fmt: skip
        return not self._returned

    def probe(self) -> None:
        """See whether the broker confirms, by a message that goes nowhere. Raises ``PublishError``."""
        try:
            producer = self._open(topology.celery_app())
            if not isinstance(producer.channel, virtual.Channel):
                timeout = conf.publish_timeout()
                producer.publish(
                    b"", routing_key="cqrs.probe", retry=False, timeout=timeout, confirm_timeout=timeout,
                    content_type="application/octet-stream", content_encoding="binary",
                )  # fmt: skip
        except Exception as error:
            self.close()
            raise PublishError(f"The broker does not answer: {type(error).__name__}: {error}") from error

    def bind_master_queue(self) -> None:
        """Bind the queue to which replicas answer. Raises ``PublishError``."""
        app = topology.celery_app()
        if app.conf.task_always_eager:
            return
        try:
            topology.bind_master_queue(self._open(app).channel)
        except Exception as error:
            self.close()
            raise PublishError(f"The master's queue cannot be bound: {type(error).__name__}: {error}") from error

    def _open(self, app: Any) -> Any:
        if self._connection is None:
            base = app.connection_for_write()
            timeout = conf.publish_timeout()
            options = dict(base.transport_options)
            if base.transport.driver_type == "amqp":
                options |= {"confirm_publish": True, "read_timeout": timeout, "write_timeout": timeout}
            self._connection = base.clone(transport_options=options, connect_timeout=timeout, heartbeat=0)
            self._connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=timeout)
            topology.declare_for_publishing(self._connection.default_channel)
        if self._producer is None:
            channel = self._connection.channel()
            # Brokers without AMQP return nothing; ``publish`` looks there whether a queue is bound.
            on_return = None if isinstance(channel, virtual.Channel) else self._on_return
            self._producer = Producer(channel, exchange=topology.exchange(), auto_declare=False, on_return=on_return)
        return self._producer

    def _renew_channel(self) -> None:
        # RabbitMQ goes on rejecting what a channel publishes that has met a full quorum queue, long after it is empty.
        try:
            self._producer.channel.close()
        except Exception:
            self.close()
        self._producer = None

    def _on_return(self, exception: Any, exchange: str, routing_key: str, message: Any) -> None:
        # Raising here would leave the message's confirm unread, to be taken for that of the next one.
        self._returned.append(routing_key)

    def close(self) -> None:
        """Drop the connection without a handshake, which a blocked broker would not answer."""
        connection, self._connection, self._producer = self._connection, None, None
        self._copies.forget()
        if connection is not None:
            try:
                connection.collect()
            except Exception:  # it is being thrown away
                logger.debug("A broker connection did not close cleanly.", extra={"action": "cqrs_connection_dropped"})

    def forget(self) -> None:
        """Let go of a connection that belongs to another process, without touching its socket."""
        self._connection = self._producer = None
        self._copies.forget()


@dataclass(frozen=True, kw_only=True)
class Published:
    """What one claim came to: rows taken, changes and messages confirmed, rows that cannot be encoded.

    ``unroutable`` and ``rejected`` are changes that stay and are sent again after a pause.
    """

    claimed: int = 0
    changes: int = 0
    messages: int = 0
    refused: int = 0
    unroutable: int = 0
    rejected: int = 0


_said_unroutable: set[str] = set()
_said_rejected: set[str] = set()


def _settle(rows: Any, token: str, done: list[int], deletes: set[int]) -> None:
    """After the confirms: saves are forgotten, deletes stay as tombstones."""
    rows.published(token, [pk for pk in done if pk not in deletes])
    rows.published_deletes(token, [pk for pk in done if pk in deletes])


class _Claim:
    """Outbox rows that this publisher holds, and what becomes of them."""

    def __init__(self, using: str) -> None:
        self.using, self.token = using, new_token()
        self.rows = OutboxMessage.objects.using(using)
        self.claimed = self.rows.claim(token=self.token, seconds=conf.outbox_lease(), limit=conf.outbox_batch())
        self.waiting = {row.pk for row in self.claimed}
        self.deletes = {row.pk for row in self.claimed if row.signal_type == SignalType.DELETE.value}
        self.done: list[int] = []
        self.changes = self.messages = self.unroutable = self.rejected = self.refused = 0

    def publish(self, publisher: Publishes) -> None:
        """Publish what was claimed. Raises ``PublishError`` where the broker is away, with all else settled."""
        composition = outbox.compose(self.claimed, self.using)
        self.done.extend(composition.settled)
        for reason, pks in composition.refused.items():
            self._refuse(reason, pks)
        try:
            for message in composition.messages:
                self._publish(message, publisher)
        finally:
            _settle(self.rows, self.token, self.done, self.deletes)
            self.waiting.difference_update(self.done)

    def _publish(self, message: outbox.Message, publisher: Publishes) -> None:
        try:
            publisher.publish(message)
        except Unroutable as error:
            self.unroutable += message.changes
            self._put_back(message, UNROUTABLE_PAUSE)
            _say_unroutable(message.cqrs_id, error)
        except Rejected as error:
            # The other queues have it, and must get what comes after it, too: only this message waits.
            self.rejected += message.changes
            self._put_back(message, self._pause_of(message))
            _say_rejected(message.cqrs_id, error)
        else:
            self.changes += message.changes
            self.messages += 1
            self.done.extend(message.rows)
            _said_rejected.discard(message.cqrs_id)

    def _refuse(self, reason: str, pks: list[int]) -> None:
        self.rows.refuse(self.token, pks, reason)
        self.waiting.difference_update(pks)
        self.refused += len(pks)
        logger.error(
            "%s outbox rows cannot be published: %s", len(pks), reason, extra={"action": "cqrs_outbox_refused"}
        )

    def _put_back(self, message: outbox.Message, pause: float) -> None:
        self.rows.held_by(self.token, message.rows).update(attempts=F("attempts") + 1)
        self.rows.release(self.token, message.rows, after=pause)
        self.waiting.difference_update(message.rows)

    def _pause_of(self, message: outbox.Message) -> float:
        attempts = self.rows.filter(pk__in=message.rows).aggregate(most=Max("attempts"))["most"]
        return retries.backoff(attempts or 0, first=1.0, cap=REJECTED_PAUSE)

    def give_back(self) -> None:
        """Let others have what was not dealt with."""
        if self.waiting:
            self.rows.release(self.token, self.waiting)

    def result(self) -> Published:
        """What it came to."""
        return Published(
            claimed=len(self.claimed), changes=self.changes, messages=self.messages, refused=self.refused,
            unroutable=self.unroutable, rejected=self.rejected,
        )  # fmt: skip


def publish_once(using: str, publisher: Publishes) -> Published:
    """Claim one batch of outbox rows and publish it. Raises ``PublishError`` with the rows given back."""
    claim = _Claim(using)
    if claim.claimed:
        try:
            claim.publish(publisher)
        finally:
            claim.give_back()
    return claim.result()


def _say_unroutable(cqrs_id: str, error: Unroutable) -> None:
    if cqrs_id not in _said_unroutable:
        _said_unroutable.add(cqrs_id)
        logger.warning(
            "%s Changes of %s stay in the outbox until a replica's worker has declared its queue; list the queue in"
            " CQRS['master']['replicas'] to have the master declare it.",
            error, cqrs_id, extra={"action": "cqrs_unroutable"},
        )  # fmt: skip


def publish_unpromised(rows: Sequence[OutboxMessage], using: str, publisher: Publishes) -> None:
    """Publish changes that have no outbox row. What the broker does not take is lost, and said so."""
    composition = outbox.compose(rows, using)
    lost = [reason for reason, pks in composition.refused.items() for _ in pks]
    for message in composition.messages:
        try:
            publisher.publish(message)
        except PublishError as error:
            lost += [str(error)] * message.changes
    if lost:
        logger.error(
            "%s changes without an outbox row were lost (CQRS['master']['outbox'] is False): %s", len(lost), lost[0],
            extra={"action": "cqrs_unpromised_lost"},
        )  # fmt: skip


def _say_rejected(cqrs_id: str, error: Rejected) -> None:
    if cqrs_id not in _said_rejected:
        _said_rejected.add(cqrs_id)
        logger.warning(
            "%s Changes of %s go to all queues again, with growing pauses, until every queue has taken them; find the"
            " replica that does not keep up.", error, cqrs_id, extra={"action": "cqrs_rejected"},
        )  # fmt: skip


def drain(using: str, publisher: Publishes, *, seconds: float = math.inf) -> Published:
    """Publish until nothing is due, or until ``seconds`` have gone by.

    Raises ``PublishError`` at the first message that the broker does not answer for.
    """
    total, end = Published(), time.monotonic() + seconds
    while True:
        part = publish_once(using, publisher)
        total = _sum(total, part)
        if part.claimed < conf.outbox_batch() or time.monotonic() > end:
            return total


def _sum(a: Published, b: Published) -> Published:
    return Published(**{name: getattr(a, name) + getattr(b, name) for name in a.__dataclass_fields__})


def relay() -> Published:
    """Publish whatever is due in every outbox of this service; what beat and ``cqrs_relay`` run.

    Raises ``PublishError`` when the broker does not take it.
    """
    total = Published()
    publisher = Publisher()
    try:
        for using in outbox.aliases():
            total = _sum(total, drain(using, publisher))
    finally:
        publisher.close()
    return total
