"""Rounds: a sync of a whole model, which goes on where it was when it is killed, at a bearable speed.

``full`` sends every row; ``digest`` sends a digest, and the rest follows from the replicas' answers. How far one has
come is kept in its ``SyncState``; of two rounds at once the later one keeps its place, and neither does harm.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.db import router
from django.db.models.functions import Now

from django_cqrs_celery import contents, digests, images, sync
from django_cqrs_celery.burials import filter_of
from django_cqrs_celery.constants import SyncMode
from django_cqrs_celery.exceptions import CQRSError
from django_cqrs_celery.models import SyncState
from django_cqrs_celery.outbox import Message
from django_cqrs_celery.repairs import NOTHING_YET, VERSION, Options

#: Seconds between two notes of the position.
KEEP_SECONDS = 1.0
#: Seconds without a sign of life after which nobody waits for a round any more.
PATIENCE = 30.0


@dataclass
class Round:
    """A run of one sync, and its place in the table of states."""

    model: Any
    queue: str | None
    mode: SyncMode
    options: str
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    position: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.using = router.db_for_write(self.model)
        self._kept = time.monotonic()

    def begin(self, *, resume: bool, total: int) -> None:
        """Take the place; with ``resume``, that of a round of the same options which has not ended."""
        state = SyncState.objects.using(self.using).of(self.model.CQRS_ID, self.queue, self.mode)
        if resume and state.position is not None and state.options == self.options:
            self.position = json.loads(state.position)
            self.token = state.round or self.token
            return
        SyncState.objects.using(self.using).filter(pk=state.pk).update(
            round=self.token, options=self.options, position="{}", total=total, done=0, started_at=Now(),
            finished_at=None, updated_at=Now(), **NOTHING_YET,
        )  # fmt: skip

    def keep(self, position: Callable[[], Mapping[str, Any]], done: int, *, always: bool = False) -> None:
        """Note how far it has come, not more often than makes sense."""
        now = time.monotonic()
        if always or now - self._kept >= KEEP_SECONDS:
            self._kept = now
            self._mine().update(position=json.dumps(position()), done=done, updated_at=Now())

    def end(self, done: int) -> None:
        """Give the place up."""
        self._mine().update(position=None, done=done, finished_at=Now(), updated_at=Now())

    def _mine(self) -> Any:
        return SyncState.objects.using(self.using).filter(
            cqrs_id=self.model.CQRS_ID, queue=self.queue or "", mode=self.mode.value, round=self.token
        )


def full(
    queryset: Any,
    publish: Callable[[Message], None],
    *,
    filters: Mapping[str, Any] | None = None,
    queue: str | None = None,
    size: int = 2000,
    force: bool = False,
    rate: float | None = None,
    resume: bool = False,
) -> Iterator[sync.Chunk]:
    """Send every row of a queryset, and give the chunks that were sent."""
    model = queryset.model
    options = json.dumps({"filters": filters or {}, "force": force}, default=str, sort_keys=True)
    run = Round(model, queue, SyncMode.FULL, options)
    run.begin(resume=resume, total=queryset.count())
    done, last = run.position.get("done", 0), run.position.get("last")
    throttle = digests.Throttle(rate) if rate else None
    after = None if last is None else images.python_pk(model, last)
    for chunk in sync.chunks(queryset, queue=queue, size=size, force=force, after=after):
        for message in chunk.messages:
            publish(message)
        done, last = done + chunk.rows + len(chunk.refused), chunk.last or last
        run.keep(lambda: {"done": done, "last": last}, done)  # noqa: B023
        yield chunk
        if throttle:
            throttle(chunk.rows)
    run.end(done)


def is_under_way(model: Any, queue: str | None) -> bool:
    """Whether a digest of this model is being made, or a replica is still answering the last one.

    A round that began before the last one's repairs have landed would ask for all of them again.
    """
    states = SyncState.objects.using(router.db_for_write(model)).filter(
        cqrs_id=model.CQRS_ID, mode=SyncMode.DIGEST.value
    )
    replicas = states.filter(queue=queue) if queue else states.exclude(queue="")
    if states.filter(queue__in=["", queue or ""]).running().alive(PATIENCE).exists():
        return True
    if replicas.filter(listings__gt=0).alive(PATIENCE).exists():
        return True
    asked = states.filter(queue=queue or "").order_by().alive(PATIENCE).values_list("round", flat=True).first()
    # Before the first answer of all it is not known whether there is a replica.
    return asked is not None and (replicas.exclude(round=asked).exists() or not replicas.exists())


@dataclass(frozen=True, kw_only=True)
class Step:
    """How far a digest has come: rows in all; ``note`` at the end."""

    rows: int
    note: dict[str, Any] | None = None


def digest(
    model: Any,
    *,
    queue: str | None = None,
    options: Options | None = None,
    rate: float | None = None,
    resume: bool = False,
    dry_run: bool = False,
) -> Iterator[Step]:
    """Compute a digest chunk by chunk; the last step has the note that replicas are to get."""
    options = options or Options()
    content = contents.of_master(model, options.content) if options.content else None
    if options.content and content is None:
        raise CQRSError(
            f"The values of {model._meta.label} cannot be compared: a serializer of its own makes what travels."
        )
    run = Round(model, queue, SyncMode.DIGEST, options.to_json())
    scan = digests.Scan(model, run.using, digests.choose_scheme(model, run.using), filter_of(model), content)
    if not dry_run:
        run.begin(resume=resume, total=model._base_manager.using(run.using).count())
        if run.position:
            scan.resume(run.position)
    throttle = digests.Throttle(rate)
    while True:
        rows = scan.next_chunk()
        if not rows:
            break
        yield Step(rows=scan.seen)
        if not dry_run:
            run.keep(scan.to_dict, scan.seen)
        throttle(rows)
    note = {
        "version": VERSION, "kind": "digest", "cqrs_id": model.CQRS_ID, "round": run.token,
        "scheme": scan.scheme.to_dict(), **scan.digest.to_dict(),
        "content": dict(content.kinds) if content else None, "values": scan.sums.to_dict() if scan.sums else None,
    }  # fmt: skip
    yield Step(rows=scan.seen, note=note)
    if not dry_run:
        run.end(scan.seen)
