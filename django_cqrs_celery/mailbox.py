"""The master's queue in a Celery worker: bound for what replicas send to their master, and for nothing else.

An ordinary worker of the master consumes the queue. This step binds it, and refuses whatever comes by a replica's key
and is not an answer or a request: a replica may not start the master's other tasks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery import bootsteps, signals

from django_cqrs_celery import topology
from django_cqrs_celery.constants import TASK_ANSWER
from django_cqrs_celery.registries import MasterRegistry

logger = logging.getLogger("django_cqrs_celery.worker")


class Mailbox(bootsteps.StartStopStep):
    """Step of the worker's consumer: binds the master's queue for each new connection and guards it."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Bind and guard, where this worker consumes the master's queue."""
        if topology.master_queue() not in consumer.app.amqp.queues.consume_from:
            return
        channel = consumer.connection.channel()
        try:
            topology.bind_master_queue(channel)
        finally:
            channel.close()
        for name, strategy in consumer.strategies.items():
            if name != TASK_ANSWER:
                consumer.strategies[name] = _guarded(name, strategy, consumer.connection_errors)


def _guarded(name: str, strategy: Callable[..., Any], errors: Any) -> Callable[..., Any]:
    def on_message(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **kwargs: Any) -> Any:
        key = (message.delivery_info or {}).get("routing_key") or ""
        if not key.startswith(f"{topology.MASTER_KEY}."):
            return strategy(message, body, ack, reject, callbacks, **kwargs)
        logger.error(
            "A replica asked its master to run %s; it is refused. Replicas may send %s only.", name, TASK_ANSWER,
            extra={"action": "cqrs_refused"},
        )  # fmt: skip
        return reject(logger, errors, False)

    return on_message


def prepare_worker(sender: Any, instance: Any, options: dict[str, Any], **kwargs: Any) -> None:
    """Before a worker is set up: install the step in a service that has master models."""
    if MasterRegistry.models:
        topology.remember_app(instance.app)
        instance.app.steps["consumer"].add(Mailbox)


def install() -> None:
    """Listen for workers that start in this process."""
    signals.celeryd_init.connect(prepare_worker, dispatch_uid="django_cqrs_celery.mailbox")
