"""The replica's queue in a Celery worker: ``celery -A proj worker -Q my_replica`` consumes it properly bound.

A boot step consumes the queue on a channel of its own. So its prefetch can be large enough for batches without spoiling
other queues of the same worker, quorum queues (which refuse a channel-wide prefetch) are no special case for the rest
of Celery, and what cannot be read is rejected to the dead-letter queue, where Celery would acknowledge it.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps, signals
from kombu import Consumer as KombuConsumer
from kombu import Queue
from kombu.common import ignore_errors
from kombu.transport import virtual

from django_cqrs_celery import applier, batching, conf, draining, legacy_consumer, tasks, topology
from django_cqrs_celery.constants import TASK_APPLY

logger = logging.getLogger("django_cqrs_celery.worker")


class TakeOverQueue(bootsteps.StartStopStep):
    """Step of the worker: takes the replica's queue away from Celery's own consumer, after the banner has shown it."""

    requires = ("celery.worker.components:Pool",)

    def start(self, worker: Any) -> None:
        """Run once, before the worker connects."""
        name = conf.queue()
        queues = worker.app.amqp.queues
        queues.deselect([name])
        queues.pop(name, None)


class Asking:
    """Has the pool ask the master for what this replica lacks, as often as that is due, while a connection lasts."""

    #: Seconds between two looks where nothing lacks: a person may have asked for a snapshot anew.
    PAUSE = 60.0

    def __init__(self, consumer: Any) -> None:
        self.timer, self.pool, self.is_over = consumer.timer, consumer.pool, False

    def plan(self, seconds: float) -> None:
        """Ask in so many seconds."""
        if not self.is_over:
            self.timer.call_after(seconds, self._ask)

    def _ask(self) -> None:
        if not self.is_over:
            self.pool.apply_async(tasks.ask_batch, args=(), callback=self._answered, error_callback=self._failed)

    def _answered(self, seconds: float | None) -> None:
        self.plan(self.PAUSE if seconds is None else min(self.PAUSE, max(1.0, seconds)))

    def _failed(self, error: Any) -> None:
        self.plan(self.PAUSE)


class ReplicaConsumer(bootsteps.StartStopStep):
    """Step of the worker's consumer: declares, binds and consumes the replica's queue, for each new connection."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        self.kombu_consumer: Any = None
        self.drain_consumer: Any = None
        self.express_consumer: Any = None
        self.asking: Asking | None = None
        super().__init__(consumer, **kwargs)

    def start(self, consumer: Any) -> None:
        """Declare, and consume where no event loop will do it."""
        batching.close_gatherer(consumer)
        channel = consumer.connection.channel()
        name = topology.declare_own_queue(channel)
        channel.basic_qos(0, conf.prefetch(), False)
        handle = consumer.create_task_handler()
        drain = batching.gatherer_of(consumer).drain
        self.kombu_consumer = KombuConsumer(
            channel, queues=[Queue(name, no_declare=True)], on_message=self._guarded(handle, consumer),
            auto_declare=False, prefetch_count=conf.prefetch(),
        )  # fmt: skip
        self.drain_consumer = KombuConsumer(
            consumer.connection.channel(), queues=[Queue(conf.dead_letter_queue_name(), no_declare=True)],
            on_message=drain.take, auto_declare=False, prefetch_count=draining.BATCH,
        )  # fmt: skip
        self.express_consumer = self._express(consumer, channel)
        gatherer = batching.gatherer_of(consumer)
        gatherer.channel = None if isinstance(channel, virtual.Channel) else channel
        gatherer.plan_retry(1.0)
        gatherer.note_presence(1.0)
        self._stop_asking()
        self.asking = Asking(consumer)
        self.asking.plan(1.0)
        logger.info("Consuming %s.", name, extra={"action": "cqrs_consuming"})
        if consumer.hub is None:
            self._consume()

    def _stop_asking(self) -> None:
        if self.asking is not None:
            self.asking.is_over = True

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """Consume only now: before the loop the pool takes no work, and a message may come with any broker reply."""
        self._consume()

    def _consume(self) -> None:
        self.kombu_consumer.consume()
        self.drain_consumer.consume()
        if self.express_consumer is not None:
            self.express_consumer.consume()

    @staticmethod
    def _express(consumer: Any, own_channel: Any) -> Any:
        """The consumer of copies of lone changes; None where they are of no use, or could kill the worker."""
        gatherer = batching.gatherer_of(consumer)
        useful = [cqrs_id for cqrs_id in topology.bound() if applier.may_be_alone(cqrs_id)]
        if not useful or isinstance(own_channel, virtual.Channel) or gatherer.in_main_process:
            return None
        try:
            channel, name = topology.declare_express_queue(consumer.connection, useful)
        except consumer.connection.channel_errors as error:
            logger.info("Lone changes have no express lane: %s", error, extra={"action": "cqrs_no_express"})
            return None

        def on_message(message: Any) -> None:
            identity = message.headers.get("id") if isinstance(message.headers, dict) else None
            if isinstance(identity, str):
                gatherer.try_copy(batching.body_of(message), identity)

        return KombuConsumer(
            channel, queues=[Queue(name, no_declare=True)], on_message=on_message, auto_declare=False, no_ack=True
        )

    @staticmethod
    def _guarded(handle: Any, consumer: Any) -> Any:
        strategies = consumer.strategies
        gatherer, errors = batching.gatherer_of(consumer), consumer.connection_errors

        def on_message(message: Any) -> None:
            headers = message.headers if isinstance(message.headers, dict) else {}
            task = headers.get("task")
            if task == TASK_APPLY:
                batching.receive(gatherer, message, errors)
                return
            if task not in strategies:
                logger.error(
                    "A message of an unknown task is kept as a dead letter.", extra={"action": "cqrs_unknown_task"}
                )
                gatherer.give_up(message)
                return
            gatherer.let_pass(message)
            handle(message)

        return on_message

    def stop(self, consumer: Any) -> None:
        """Take no more messages; batches in flight are still acknowledged."""
        self._stop_asking()
        if self.kombu_consumer is not None:
            batching.gatherer_of(consumer).stop_handing_out()
            ignore_errors(consumer.connection, self.kombu_consumer.cancel)
            ignore_errors(consumer.connection, self.drain_consumer.cancel)
            if self.express_consumer is not None:
                ignore_errors(consumer.connection, self.express_consumer.cancel)

    def shutdown(self, consumer: Any) -> None:
        """Give the channel up: the broker takes back what is not acknowledged."""
        if self.kombu_consumer is not None:
            ignore_errors(consumer.connection, self.kombu_consumer.channel.close)
            ignore_errors(consumer.connection, self.drain_consumer.channel.close)
            if self.express_consumer is not None:
                ignore_errors(consumer.connection, self.express_consumer.channel.close)
            self.kombu_consumer = self.drain_consumer = self.express_consumer = None
        batching.close_gatherer(consumer)


def prepare_worker(sender: Any, instance: Any, options: dict[str, Any], **kwargs: Any) -> None:
    """Before a worker is set up: install the steps if it was asked for this replica's queue."""
    asked = options.get("queues") or ()
    if isinstance(asked, str):
        asked = asked.split(",")
    name = conf.queue()
    if name is None or name not in asked:
        return
    app = instance.app
    topology.remember_app(app)
    app.amqp.queues.add(Queue(name, topology.exchange(), routing_key=f"cqrs.{name}", no_declare=True))
    app.steps["worker"].add(TakeOverQueue)
    app.steps["consumer"].add(ReplicaConsumer)
    if conf.legacy_queue() is not None:
        app.steps["consumer"].add(legacy_consumer.LegacyConsumer)


def install() -> None:
    """Listen for workers that start in this process."""
    signals.celeryd_init.connect(prepare_worker, dispatch_uid="django_cqrs_celery.consumer")
