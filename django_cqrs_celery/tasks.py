"""Celery tasks: shells that call one function of a stage."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from celery import Task, shared_task
from django.db import close_old_connections

from django_cqrs_celery import conf, constants, dispatcher, intake, purging, snapshots, syncing, topology
from django_cqrs_celery.registries import MasterRegistry

logger = logging.getLogger("django_cqrs_celery.tasks")


def apply_batch(bodies: Sequence[bytes | str]) -> intake.Answer:
    """Run in a worker's pool: apply the messages that the gatherer has put together."""
    return intake.take(bodies)


def apply_suspect(body: bytes | str, identity: str) -> intake.Answer:
    """Run in a worker's main process: apply a message that came again, alone and counted."""
    return intake.take_suspect(body, identity)


def apply_copy(body: bytes | str) -> bool:
    """Run in a worker's pool: apply the copy of a lone change if that is simple; whether it was done."""
    return intake.take_copy(body)


def note_presence() -> None:
    """Run in a worker's pool: note that this replica's queue is consumed."""
    intake.note_presence()


def keep_batch(parked: Sequence[tuple[bytes | str, str]]) -> intake.Answer:
    """Run in a worker's pool: keep messages that are not to be applied, each with the reason."""
    return intake.keep(parked)


def ask_batch() -> float | None:
    """Run in a worker's pool: ask the master for rows that this replica lacks; returns when to ask again."""
    close_old_connections()
    try:
        return snapshots.ask() if conf.request_snapshots() else None
    except Exception as error:  # the database is away, or not migrated: it is asked again
        logger.info("Nothing could be asked of the master: %s", error, extra={"action": "cqrs_snapshot_failed"})
        return 60.0


def retry_batch() -> intake.Answer:
    """Run in a worker's pool: try due dead letters again."""
    return intake.retry_due()


class MasterTask(Task):
    """A task of the master side: goes to the master's queue, and nowhere in a service without master models."""

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Send it; None where this service has no part in it."""
        if not MasterRegistry.models:
            return None
        queue = conf.master_queue()
        if queue and not options.keys() & {"queue", "exchange", "routing_key"}:
            options["queue"] = queue
        return super().apply_async(args, kwargs, **options)


class ReplicaTask(Task):
    """A task of the replica side: goes straight to the replica's own queue, past the shared exchange."""

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Send it; None where this service has no part in it."""
        queue = conf.queue()
        if not queue:
            return None
        if not options.keys() & {"queue", "exchange", "routing_key"}:
            options |= topology.straight_to(queue)
        return super().apply_async(args, kwargs, **options)


class EitherTask(MasterTask):
    """A task of both sides: goes to the replica's queue where there is one, else to the master's."""

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Send it."""
        if conf.queue() and not options.keys() & {"queue", "exchange", "routing_key"}:
            options |= topology.straight_to(conf.queue() or "")
            return Task.apply_async(self, args, kwargs, **options)
        return super().apply_async(args, kwargs, **options)


@shared_task(
    name=constants.TASK_APPLY, acks_late=True, reject_on_worker_lost=True, acks_on_failure_or_timeout=False,
    ignore_result=True, Strategy="django_cqrs_celery.batching:strategy",
)  # fmt: skip
def cqrs_apply(changes: Sequence[Any] = (), version: int = constants.WIRE_VERSION, **unknown: Any) -> dict[str, int]:
    """Apply changes. A worker calls ``apply_batch`` instead; this body serves eager mode and direct calls."""
    answer = intake.take_changes(changes)
    return {"applied": answer.applied, "failed": answer.failed}


@shared_task(name=constants.TASK_RELAY, base=MasterTask, ignore_result=True)
def cqrs_relay() -> dict[str, int]:
    """Publish what dispatch has left in the outbox."""
    published = dispatcher.relay()
    return {"changes": published.changes, "messages": published.messages, "refused": published.refused}


@shared_task(name=constants.TASK_SYNC, base=MasterTask, ignore_result=True)
def cqrs_sync(
    cqrs_id: str | None = None,
    filters: dict[str, Any] | None = None,
    queue: str | None = None,
    mode: str | None = None,
    content: bool | list[str] = False,
    force: bool = False,
    max_deletes: float | None = None,
    rate: int | None = None,
    resume: bool = True,
) -> dict[str, int]:
    """Compare with the replicas by digest (without filters, the default), or send rows again: of one model or all."""
    wanted = syncing.Wanted.of_task(
        mode, filters=filters, queue=queue, content=content, force=force, max_deletes=max_deletes, rate=rate,
        resume=resume,
    )  # fmt: skip
    return syncing.run([cqrs_id] if cqrs_id else None, wanted)


@shared_task(name=constants.TASK_VERIFY, base=ReplicaTask, ignore_result=True)
def cqrs_verify(**note: Any) -> int:
    """On a replica: compare rows with a note of the master and answer it."""
    answers = syncing.answer(note)
    snapshots.verified(note, answers)
    return len(answers)


@shared_task(name=constants.TASK_ANSWER, base=MasterTask, ignore_result=True)
def cqrs_answer(**note: Any) -> str:
    """On the master: act on what a replica has sent, which is an answer to a digest or a request for a snapshot."""
    if note.get("kind") == "snapshot":
        return snapshots.serve(note)
    syncing.take(note)
    return str(note.get("kind"))


@shared_task(name=constants.TASK_RETRY, base=ReplicaTask, ignore_result=True)
def cqrs_retry_dead_letters() -> dict[str, int]:
    """Try due dead letters again."""
    answer = intake.retry_due()
    return {"applied": answer.applied, "failed": answer.failed}


@shared_task(name=constants.TASK_PURGE, base=EitherTask, ignore_result=True)
def cqrs_purge() -> dict[str, int]:
    """Forget tombstones and closed dead letters that are older than the settings say."""
    return purging.purge()
