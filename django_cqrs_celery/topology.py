"""Where messages go: the exchange, the replicas' queues and how they are bound. The only place that names them."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from amqp.exceptions import PreconditionFailed
from celery import Celery, _state
from kombu import Exchange, Queue
from kombu.transport import virtual

from django_cqrs_celery import conf
from django_cqrs_celery.constants import TASK_APPLY
from django_cqrs_celery.exceptions import ConfigurationError
from django_cqrs_celery.registries import MasterRegistry, ReplicaRegistry

logger = logging.getLogger("django_cqrs_celery.topology")

#: First word of the routing keys of what replicas send to their master.
MASTER_KEY = "cqrs-master"
#: First word of the routing keys of copies that are sent past the replicas' queues.
EXPRESS_KEY = "cqrs-express"
#: Seconds after which a copy is worth nothing, how many may wait, and seconds after which a queue for them goes that
#: nobody has ever consumed.
EXPRESS_SECONDS, EXPRESS_LENGTH, EXPRESS_UNUSED = 1.0, 100, 60.0

_app: Celery | None = None


def remember_app(app: Celery | None = None) -> None:
    """Note the project's Celery app. Other threads than the one that made it would be given Celery's fallback app."""
    global _app
    app = app or _state._tls.current_app
    if app is not None:
        _app = app


def celery_app() -> Celery:
    """The Celery app of the project. Raises ``ConfigurationError`` where the project has none."""
    if _state._tls.current_app is not None:
        return _state._tls.current_app
    if _app is None:
        remember_app()
    if _app is None:
        raise ConfigurationError(
            "The project has no Celery app: import it in the __init__.py of the project package"
            " (from .celery import app as celery_app)."
        )
    return _app


def is_eager() -> bool:
    """Whether the project's tasks run in place, without a broker; False where there is no app."""
    try:
        return bool(celery_app().conf.task_always_eager)
    except ConfigurationError:
        return False


def exchange() -> Exchange:
    """The topic exchange that masters publish to."""
    return Exchange(conf.exchange(), type="topic", durable=True)


def routing_key(cqrs_id: str, queue: str | None = None) -> str:
    """Key of a message for every replica of a CQRS_ID, or for one queue alone."""
    return cqrs_id if queue is None else f"cqrs.{queue}.{cqrs_id}"


def express_key(cqrs_id: str) -> str:
    """Key of the copy of a lone change. No queue can be called so that it is another's key."""
    return f"{EXPRESS_KEY}.{cqrs_id}"


def master_key(cqrs_id: str) -> str:
    """Key of a replica's message for the master of a CQRS_ID. No queue can be called so that it is another's key."""
    return f"{MASTER_KEY}.{cqrs_id}"


def master_queue() -> str:
    """Queue of the master's own tasks: that of the settings, or the default one of the Celery app."""
    return conf.master_queue() or celery_app().conf.task_default_queue


def bind_master_queue(channel: Any) -> None:
    """Declare the master's queue as Celery does and bind it for what replicas send to their master."""
    name = master_queue()
    exchange()(channel).declare()
    celery_app().amqp.queues[name].bind(channel).declare()
    queue = Queue(name, no_declare=True)(channel)
    for cqrs_id in sorted(MasterRegistry.models):
        queue.bind_to(exchange(), routing_key=master_key(cqrs_id))


def legacy_exchange(name: str) -> Exchange:
    """The topic exchange of services that run django-cqrs."""
    return Exchange(name, type="topic", durable=True)


def queue_arguments(dead_letters: str) -> dict[str, Any]:
    """RabbitMQ's arguments of a replica queue: what no worker can read is kept in the dead-letter queue."""
    arguments: dict[str, Any] = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead_letters}
    if conf.queue_type() == "quorum":
        arguments |= {"x-queue-type": "quorum", "x-delivery-limit": conf.delivery_limit()}
    return arguments


def dead_letter_queue(name: str) -> Queue:
    """The queue where the broker keeps what no worker can read."""
    arguments = {"x-queue-type": "quorum"} if conf.queue_type() == "quorum" else None
    return Queue(name, Exchange(""), routing_key=name, durable=True, queue_arguments=arguments)


def replica_queue(name: str, dead_letters: str) -> Queue:
    """A replica's queue, with the binding for messages that are for it alone."""
    return Queue(
        name, exchange(), routing_key=f"cqrs.{name}", durable=True, queue_arguments=queue_arguments(dead_letters)
    )


def straight_to(name: str) -> dict[str, Any]:
    """Options of ``apply_async`` for a task that goes to one queue, which is not declared on the way.

    Given an empty exchange instead of the queue, Celery sends to the app's default queue.
    """
    return {"queue": Queue(name, Exchange(""), routing_key=name, no_declare=True), "declare": []}


def declare(channel: Any, name: str, dead_letters: str, cqrs_ids: Iterable[str]) -> None:
    """Declare a replica's queue with its dead-letter queue and bind it for the CQRS_IDs.

    Raises ``ConfigurationError`` where one of them is there with other properties; the channel stays usable.
    """
    exchange()(channel).declare()
    _declare_queue(channel, dead_letter_queue(dead_letters))
    _declare_queue(channel, replica_queue(name, dead_letters))
    bind(channel, name, cqrs_ids)


def bind(channel: Any, name: str, cqrs_ids: Iterable[str]) -> None:
    """Bind a replica's queue, whatever its properties are, for the CQRS_IDs."""
    queue = Queue(name, exchange(), routing_key=f"cqrs.{name}")(channel)
    for cqrs_id in sorted(cqrs_ids):
        queue.bind_to(exchange(), routing_key=routing_key(cqrs_id))
        queue.bind_to(exchange(), routing_key=routing_key(cqrs_id, name))


def _declare_queue(channel: Any, queue: Any) -> None:
    if isinstance(channel, virtual.Channel):
        queue.queue_arguments = None
        queue(channel).declare()
        return
    # On a channel of its own: RabbitMQ closes the one on which a queue turns out to be another.
    own = channel.connection.channel()
    try:
        queue(own).declare()
    except PreconditionFailed as error:
        raise ConfigurationError(
            f"Queue {queue.name!r} is there with other properties than the settings say: {error.reply_text} Set"
            " CQRS['queue_type'] and CQRS['replica']['delivery_limit'] to what it has, or stop its workers, let it run"
            " empty, delete it, and start them again."
        ) from error
    finally:
        if own.is_open:
            own.close()


def bound() -> Iterable[str]:
    """CQRS_IDs for which the queue of this replica service is bound."""
    return _bound_only or ReplicaRegistry.models


def declare_own_queue(channel: Any) -> str:
    """Declare the queue of this replica service; returns its name. Raises ``ConfigurationError`` without one."""
    name = conf.queue()
    if name is None:
        raise ConfigurationError("CQRS['queue'] is not set: a replica service needs the name of its queue.")
    declare(channel, name, conf.dead_letter_queue_name(), bound())
    return name


def declare_express_queue(connection: Any, cqrs_ids: Iterable[str]) -> tuple[Any, str]:
    """Declare the queue for copies of lone changes, which is there while workers are, and bind it for the CQRS_IDs.

    Returns a channel and the name. What the broker refuses raises one of the connection's ``channel_errors``.
    """
    name = f"{conf.queue()}.express"
    channel = connection.channel()
    queue = Queue(
        name, exchange(), durable=True, auto_delete=True, message_ttl=EXPRESS_SECONDS, max_length=EXPRESS_LENGTH,
        expires=EXPRESS_UNUSED, queue_arguments={"x-queue-type": "classic"},
    )(channel)  # fmt: skip
    queue.queue_declare()
    for cqrs_id in sorted(cqrs_ids):
        queue.bind_to(exchange(), routing_key=express_key(cqrs_id))
    return channel, name


def declare_legacy_queue(connection: Any) -> tuple[str, bool]:
    """Bind the queue that django-cqrs masters publish to, made as django-cqrs makes it where there is none.

    Returns its name, and whether django-cqrs has left a queue of dead letters.
    """
    name = conf.legacy_queue() or ""
    exchange = legacy_exchange(conf.replica_legacy_exchange())
    queue = Queue(name, exchange, routing_key=f"cqrs.{name}", durable=True)
    channel = connection.channel()
    try:
        exchange(channel).declare()
        if not exists(connection, name):
            queue(channel).queue_declare()
        for cqrs_id in sorted(_bound_only or ReplicaRegistry.models):
            queue(channel).bind_to(exchange, routing_key=routing_key(cqrs_id))
            queue(channel).bind_to(exchange, routing_key=routing_key(cqrs_id, name))
    finally:
        if channel.is_open:
            channel.close()
    return name, exists(connection, conf.legacy_dead_letter_queue_name())


def exists(connection: Any, name: str) -> bool:
    """Whether the broker has a queue, whatever its properties are."""
    channel = connection.channel()  # of its own: the broker closes the one on which a queue is not found
    try:
        channel.queue_declare(name, passive=True)
        return True
    except connection.channel_errors:
        return False
    finally:
        if getattr(channel, "is_open", True):
            channel.close()


_bound_only: list[str] = []


def limit_bindings(cqrs_ids: Iterable[str]) -> None:
    """Bind the queue for these CQRS_IDs only, in this process and those that it starts."""
    _bound_only[:] = cqrs_ids


def declare_for_publishing(channel: Any) -> None:
    """What a master declares before it publishes: the exchange, and the queues of the replicas that it lists."""
    exchange()(channel).declare()
    legacy = conf.legacy_exchange()
    if legacy is not None:
        legacy_exchange(legacy)(channel).declare()
    replicas = conf.replicas()
    for name in replicas:
        wanted = replicas[name] if isinstance(replicas, Mapping) else MasterRegistry.models
        try:
            declare(channel, name, f"dead_letter_{name}", wanted)
        except ConfigurationError as error:
            logger.info("%s It is used as it is.", error, extra={"action": "cqrs_queue_differs"})
            bind(channel, name, wanted)


def headers(
    app: Celery, changes: int, task: str = TASK_APPLY, shown: str | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Headers and properties of a Celery message (protocol 2), by default for ``cqrs_apply``; they show no payload."""
    task_id = uuid.uuid4().hex
    made: dict[str, Any] = {
        "lang": "py", "task": task, "id": task_id, "root_id": task_id, "parent_id": None, "group": None,
        "group_index": None, "meth": None, "shadow": None, "eta": None, "expires": None, "retries": 0,
        "timelimit": [None, None], "argsrepr": "()", "kwargsrepr": shown or f"({changes} changes)", "origin": "cqrs",
        "ignore_result": True, "replaced_task_nesting": 0, "stamped_headers": None, "stamps": {},
    }  # fmt: skip
    return made, {"correlation_id": task_id, "reply_to": ""}
