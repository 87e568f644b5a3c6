"""Syncs over the broker: rounds that are published, and the notes that master and replicas send each other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import router

from django_cqrs_celery import conf, contents, dispatcher, healing, repairs, rounds, sync, topology
from django_cqrs_celery.constants import TASK_ANSWER, TASK_VERIFY, SyncMode
from django_cqrs_celery.exceptions import ConfigurationError, CQRSError, DecodeError, Unroutable
from django_cqrs_celery.registries import MasterRegistry

logger = logging.getLogger("django_cqrs_celery.syncing")

#: How long a digest waits for the outbox to be published before it.
DRAIN_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a sync is asked for; the options of the command and the arguments of the task."""

    mode: SyncMode = SyncMode.FULL
    filters: Mapping[str, Any] | None = None
    queue: str | None = None
    size: int = 2000
    content: bool | list[str] = False
    force: bool = False
    max_deletes: float | None = None
    rate: int | None = None
    resume: bool = False
    dry_run: bool = False
    #: Round of a snapshot that is complete where this digest finds a replica equal.
    snapshot: str | None = None
    #: Whether to leave out a digest while replicas still answer the last one.
    unless_under_way: bool = False

    def problem(self, all_models: bool) -> str | None:
        """What does not go together, or None."""
        if self.filters and all_models:
            return "A filter needs a CQRS_ID: its lookups are those of one model."
        if self.filters and self.mode is SyncMode.DIGEST:
            return "A digest compares whole tables; a filter goes with the mode full."
        if self.mode is SyncMode.FULL and (self.content or self.max_deletes is not None):
            return "Content and max-deletes go with the mode digest; the mode full sends every row and deletes none."
        if self.max_deletes is not None and not 0 <= self.max_deletes <= 1:
            return "Max-deletes is a share of the replica's rows, from 0 to 1."
        return "The rate is a positive number of rows a second." if self.rate is not None and self.rate <= 0 else None

    @classmethod
    def of_task(cls, mode: str | None, **arguments: Any) -> Wanted:
        """What the task is asked for: a digest where it says nothing, every row where it has a filter.

        Raises ``ConfigurationError``.
        """
        mode = mode or (SyncMode.FULL.value if arguments.get("filters") else SyncMode.DIGEST.value)
        if mode not in list(SyncMode):
            raise ConfigurationError(f"The mode {mode!r} is neither 'full' nor 'digest'.")
        unknown = sorted(set(arguments) - _OF_TASK)
        if unknown:
            raise ConfigurationError(f"The task cqrs_sync has no argument {', '.join(unknown)}.")
        unless_under_way = mode == SyncMode.DIGEST and not arguments.get("force")
        return cls(mode=SyncMode(mode), unless_under_way=unless_under_way, **arguments)


_OF_TASK = {"filters", "queue", "content", "force", "max_deletes", "rate", "resume"}


def problem_of(kwargs: Mapping[str, Any]) -> str | None:
    """Why the task ``cqrs_sync`` would refuse these arguments, or None."""
    arguments = {"mode": None, **kwargs}
    cqrs_id = arguments.pop("cqrs_id", None)
    try:
        problem = Wanted.of_task(**arguments).problem(cqrs_id is None)
        if cqrs_id is not None and problem is None:
            model = MasterRegistry.get_model_by_cqrs_id(cqrs_id)
            sync.select(model, arguments.get("filters"))
            contents.of_master(model, arguments.get("content") or True)
    except (CQRSError, TypeError) as error:
        return str(error)
    return problem


@dataclass(kw_only=True)
class Report:
    """What became of one model: rows gone through, rows sent, rows that cannot be sent with the reason, bytes."""

    cqrs_id: str
    rows: int = 0
    refused: dict[str, str] | None = None
    bytes: int = 0
    unroutable: bool = False


def run(
    cqrs_ids: Sequence[str] | None,
    wanted: Wanted,
    on_rows: Callable[[str, int], None] | None = None,
    on_report: Callable[[Report], None] | None = None,
) -> dict[str, int]:
    """Sync these models, or all; returns the rows by CQRS_ID. ``on_rows`` hears of progress.

    Raises ``ConfigurationError``, ``UnknownCQRSId`` and ``PublishError``.
    """
    problem = wanted.problem(cqrs_ids is None)
    if problem:
        raise ConfigurationError(problem)
    chosen = [
        sync.select(MasterRegistry.get_model_by_cqrs_id(cqrs_id), wanted.filters)
        for cqrs_id in (sorted(MasterRegistry.models) if cqrs_ids is None else cqrs_ids)
    ]
    publisher = dispatcher.Publisher()
    found: dict[str, int] = {}
    try:
        for queryset in chosen:
            runs = _full if wanted.mode is SyncMode.FULL else _digest
            report = runs(queryset, wanted, publisher, on_rows or _ignore)
            found[report.cqrs_id] = report.rows
            if on_report is not None:
                on_report(report)
    finally:
        publisher.close()
    return found


def _ignore(cqrs_id: str, rows: int) -> None:
    pass


def _full(queryset: Any, wanted: Wanted, publisher: Any, on_rows: Callable[[str, int], None]) -> Report:
    report = Report(cqrs_id=queryset.model.CQRS_ID, refused={})
    if wanted.dry_run:
        report.rows = queryset.count()
        return report

    def publish(message: Any) -> None:
        publisher.publish(message)
        report.bytes += len(message.body)

    for chunk in rounds.full(
        queryset, publish, filters=wanted.filters, queue=wanted.queue, size=wanted.size, force=wanted.force,
        rate=wanted.rate or conf.sync_rate(), resume=wanted.resume,
    ):  # fmt: skip
        report.rows += chunk.rows
        assert report.refused is not None  # for the type checker: set above
        report.refused.update(chunk.refused)
        on_rows(report.cqrs_id, report.rows)
    return report


def _digest(queryset: Any, wanted: Wanted, publisher: Any, on_rows: Callable[[str, int], None]) -> Report:
    model = queryset.model
    report = Report(cqrs_id=model.CQRS_ID)
    if wanted.unless_under_way and rounds.is_under_way(model, wanted.queue):
        logger.info(
            "%s: replicas are still answering the last digest; this one is left out.", model.CQRS_ID,
            extra={"action": "cqrs_digest_left_out"},
        )  # fmt: skip
        return report
    if not wanted.dry_run:
        # What has changed and is not published yet would look like a difference.
        dispatcher.drain(router.db_for_write(model), publisher, seconds=DRAIN_SECONDS)
        _listen(publisher)
    options = repairs.Options(content=wanted.content, force=wanted.force, max_deletes=wanted.max_deletes)
    for step in rounds.digest(
        model, queue=wanted.queue, options=options, rate=wanted.rate or conf.sync_rate(), resume=wanted.resume,
        dry_run=wanted.dry_run,
    ):  # fmt: skip
        report.rows = step.rows
        on_rows(report.cqrs_id, step.rows)
        if step.note is not None and not wanted.dry_run:
            try:
                note = {**step.note, "snapshot": wanted.snapshot} if wanted.snapshot else step.note
                report.bytes = publisher.send(
                    TASK_VERIFY, note, topology.routing_key(model.CQRS_ID, wanted.queue)
                )
            except Unroutable as error:
                report.unroutable = True
                logger.info("%s", error, extra={"action": "cqrs_digest_unroutable"})
    return report


def _listen(publisher: Any) -> None:
    """Bind the master's queue before the replicas' answers come."""
    bind = getattr(publisher, "bind_master_queue", None)
    if bind is not None:
        bind()


def answer(note: Mapping[str, Any]) -> list[dict[str, Any]]:
    """On a replica: answer a note of the master; returns what was sent.

    Raises ``PublishError``, ``Unroutable`` where no worker of the master has ever listened.
    """
    answers = healing.answers_to(note)
    if answers:
        _send_all(TASK_ANSWER, [(each, topology.master_key(each["cqrs_id"])) for each in answers])
    return answers


def take(note: Mapping[str, Any]) -> None:
    """On the master: act on an answer of a replica. What it may not send is refused, and said so."""
    publisher = dispatcher.Publisher()
    queue = note.get("queue")

    def send(listing: dict[str, Any]) -> None:
        publisher.send(TASK_VERIFY, listing, topology.routing_key(listing["cqrs_id"], queue))

    try:
        repairs.take(note, send, publisher.publish)
    except CQRSError as error:
        logger.error("An answer of a replica is refused: %s", error, extra={"action": "cqrs_answer_refused"})
        raise
    finally:
        publisher.close()


def requested(note: Mapping[str, Any]) -> tuple[str, str]:
    """CQRS_ID and queue of a replica's request for a snapshot. Raises ``CQRSError``."""
    cqrs_id, queue = note.get("cqrs_id"), note.get("queue")
    if not isinstance(cqrs_id, str) or not isinstance(queue, str) or not queue:
        raise DecodeError("A request for a snapshot has no CQRS_ID or no queue.")
    MasterRegistry.get_model_by_cqrs_id(cqrs_id)
    return cqrs_id, queue


def request(kind: str, cqrs_id: str, **more: Any) -> None:
    """On a replica: ask the master for something. Raises ``PublishError``."""
    note = {"version": healing.VERSION, "kind": kind, "cqrs_id": cqrs_id, "queue": conf.queue(), **more}
    _send_all(TASK_ANSWER, [(note, topology.master_key(cqrs_id))])


def _send_all(task: str, notes: Sequence[tuple[dict[str, Any], str]]) -> None:
    publisher = dispatcher.Publisher()
    try:
        for note, key in notes:
            publisher.send(task, note, key)
    finally:
        publisher.close()
