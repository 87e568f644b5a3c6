"""The queue of django-cqrs masters in a Celery worker, beside the replica's own: one side of the bridge.

Its messages are no Celery messages. They go to the pool the way the others do, in the order in which they came and one
batch after the other, since their revisions alone do not tell a row from one that had its primary key before.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps
from kombu import Consumer as KombuConsumer
from kombu import Queue
from kombu.common import ignore_errors
from kombu.transport import virtual

from django_cqrs_celery import batching, bridge, conf, draining, topology

logger = logging.getLogger("django_cqrs_celery.worker")

_GIVEN_UP = "django-cqrs had given this change up before this service took over its queue."


class LegacyConsumer(bootsteps.StartStopStep):
    """Step of the worker's consumer: binds and consumes the queue that django-cqrs masters publish to."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        self.gatherer: batching.Gatherer | None = None
        self.drain: draining.Drain | None = None
        self.consumers: list[Any] = []
        super().__init__(consumer, **kwargs)

    def start(self, consumer: Any) -> None:
        """Bind, and consume where no event loop will do it."""
        self.shutdown(consumer)
        name, has_dead_letters = topology.declare_legacy_queue(consumer.connection)
        self.gatherer = gatherer = batching.Gatherer(consumer, in_order=True)
        errors = consumer.connection_errors
        mine, alone = conf.queue() or name, f"cqrs.{name}."

        def receive(message: Any) -> None:
            if str(message.delivery_info.get("routing_key", "")).startswith(alone):
                message.body = bridge.directed(batching.body_of(message), mine)
            batching.receive(gatherer, message, errors)

        own = self._consumer(consumer, name, receive, conf.prefetch())
        gatherer.channel = None if isinstance(own.channel, virtual.Channel) else own.channel
        if has_dead_letters:
            self.drain = draining.Drain(consumer, _GIVEN_UP)
            letters = conf.legacy_dead_letter_queue_name()
            self._consumer(consumer, letters, self.drain.take, draining.BATCH)
        logger.info("Consuming %s of django-cqrs masters.", name, extra={"action": "cqrs_consuming_legacy"})
        if consumer.hub is None:
            self._consume()

    def _consumer(self, consumer: Any, queue: str, on_message: Any, prefetch: int) -> Any:
        channel = consumer.connection.channel()
        channel.basic_qos(0, prefetch, False)
        made = KombuConsumer(
            channel, queues=[Queue(queue, no_declare=True)], on_message=on_message, auto_declare=False,
            prefetch_count=prefetch,
        )  # fmt: skip
        self.consumers.append(made)
        return made

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """Consume only now, as the replica's own queue."""
        self._consume()

    def _consume(self) -> None:
        for each in self.consumers:
            each.consume()

    def stop(self, consumer: Any) -> None:
        """Take no more messages; the batch in flight is still acknowledged."""
        if self.gatherer is not None:
            self.gatherer.stop_handing_out()
        for each in self.consumers:
            ignore_errors(consumer.connection, each.cancel)

    def shutdown(self, consumer: Any) -> None:
        """Give the channels up: the broker takes back what is not acknowledged."""
        for each in self.consumers:
            ignore_errors(consumer.connection, each.channel.close)
        self.consumers = []
        for closing in (self.gatherer, self.drain):
            if closing is not None:
                closing.close()
        self.gatherer = self.drain = None
