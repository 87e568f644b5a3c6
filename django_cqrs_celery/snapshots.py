"""A replica asks for the rows that were there before it, and knows when it has them.

Its queue is bound first, so that nothing is missed from then on; then it asks, and the master sends all rows to that
queue. The replica asks again, ever more slowly, until a digest that was made after the sending had begun finds it
equal: whoever is killed in between, somebody goes on, and nobody calls it complete before it is.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from django.db import router
from django.db.models.functions import Now
from django.utils import timezone

from django_cqrs_celery import applier, conf, digests, healing, syncing, topology
from django_cqrs_celery.constants import SyncMode
from django_cqrs_celery.exceptions import ConfigurationError, DecodeError, PublishError
from django_cqrs_celery.models import SyncState
from django_cqrs_celery.registries import MasterRegistry, ReplicaRegistry

logger = logging.getLogger("django_cqrs_celery.snapshots")

#: Seconds before a replica asks for the second time, and the most that it waits between two requests.
FIRST_PAUSE, LONGEST_PAUSE = 3.0, 300.0
#: Seconds without a sign of life after which a master's worker that was sending is taken for dead.
STALE_SECONDS = 10.0
#: Seconds between two digests that the master makes for one replica because it asks.
DIGEST_SECONDS = 2.0

_said_unheard: set[str] = set()

# --- on the replica ------------------------------------------------------------------------------------------------


def askable() -> list[str]:
    """CQRS_IDs of the replica models for which rows can be asked for and compared: parents first, as rows need them."""
    models = {ReplicaRegistry.get_model_by_cqrs_id(cqrs_id): cqrs_id for cqrs_id in sorted(topology.bound())}
    return [models[model] for model in applier.parents_first(models) if healing.why_not(model) is None]


def check(cqrs_id: str) -> None:
    """Raise ``CQRSError`` for a CQRS_ID whose rows cannot be asked for."""
    reason = healing.why_not(ReplicaRegistry.get_model_by_cqrs_id(cqrs_id))
    if reason:
        raise ConfigurationError(f"The rows of {cqrs_id} cannot be asked for. {reason}")


def states(cqrs_ids: Iterable[str]) -> list[dict[str, Any]]:
    """What is known on this replica of its snapshots: CQRS_ID, rows at the last look, whether it is complete."""
    found = []
    for cqrs_id in cqrs_ids:
        using = router.db_for_write(ReplicaRegistry.get_model_by_cqrs_id(cqrs_id))
        state = SyncState.objects.using(using).of(cqrs_id, conf.queue(), SyncMode.SNAPSHOT)
        complete = state.finished_at is not None and state.position is None
        found.append({"cqrs_id": cqrs_id, "rows": state.done, "complete": complete})
    return found


def ask(cqrs_ids: Iterable[str] | None = None, *, anew: bool = False) -> float | None:
    """Ask the master for what is lacking, where that is due.

    ``anew``: also where it is complete; raises ``PublishError`` then where the broker or the master is away. Returns
    the seconds after which to call this again; None where nothing lacks.
    """
    pauses = []
    for cqrs_id in askable() if cqrs_ids is None else cqrs_ids:
        pause = _ask_for(cqrs_id, anew)
        if pause is not None:
            pauses.append(pause)
    return min(pauses, default=None)


def _ask_for(cqrs_id: str, anew: bool) -> float | None:
    model = ReplicaRegistry.get_model_by_cqrs_id(cqrs_id)
    states = SyncState.objects.using(router.db_for_write(model))
    state = states.of(cqrs_id, conf.queue(), SyncMode.SNAPSHOT)
    if anew or not state.round:
        values = {"round": uuid.uuid4().hex, "started_at": Now(), "finished_at": None, "position": '{"asked": 0}'}
        states.filter(pk=state.pk, round=state.round).update(**values)
        state = states.get(pk=state.pk)
    if state.position is None:
        return None
    asked = json.loads(state.position)["asked"]
    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (asked - 1)) if asked else 0.0
    left = (state.updated_at + timedelta(seconds=pause) - timezone.now()).total_seconds() if asked else 0.0
    if left > 0:
        return left
    rows = model._base_manager.using(states.db).count()
    mine = states.filter(pk=state.pk, round=state.round, position=state.position)
    if not mine.update(position=json.dumps({"asked": asked + 1}), done=rows, updated_at=Now()):
        return FIRST_PAUSE  # another worker has just asked
    try:
        syncing.request("snapshot", cqrs_id, round=state.round, rows=rows)
    except PublishError as error:
        if anew:
            raise
        if cqrs_id not in _said_unheard:
            _said_unheard.add(cqrs_id)
            logger.info(
                "The rows of %s cannot be asked for yet, is the master's worker running? %s", cqrs_id, error,
                extra={"action": "cqrs_snapshot_unheard"},
            )  # fmt: skip
        # Somebody will listen one day: until then the pauses do not grow without end.
        states.filter(pk=state.pk).update(position=json.dumps({"asked": min(asked + 1, 4)}))
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2**asked)


def verified(note: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> bool:
    """Note that a snapshot is complete, where the answer to its digest says so."""
    token = note.get("snapshot")
    if not isinstance(token, str) or not token:
        return False
    model = ReplicaRegistry.get_model_by_cqrs_id(note["cqrs_id"])
    states = SyncState.objects.using(router.db_for_write(model)).filter(
        cqrs_id=note["cqrs_id"], queue=conf.queue() or "", mode=SyncMode.SNAPSHOT.value, round=token
    )
    if [answer.get("kind") for answer in answers] != ["equal"]:
        # The master is at it: no reason to wait longer and longer.
        states.running().update(position='{"asked": 1}', updated_at=Now())
        return False
    done = states.running().update(
        position=None, done=answers[0]["rows"], finished_at=Now(), verified_at=Now(), updated_at=Now()
    )
    if done:
        logger.info("%s is complete: %s rows.", note["cqrs_id"], answers[0]["rows"], extra={"action": "cqrs_complete"})
    return bool(done)


# --- on the master -------------------------------------------------------------------------------------------------


def serve(note: Mapping[str, Any]) -> str:
    """Act on a replica's request: send the rows, go on where the sending was cut short, or have them compared.

    Returns which of it: ``sent``, ``compared``, or ``busy`` where another worker is at it. Raises ``CQRSError``.
    """
    cqrs_id, queue = syncing.requested(note)
    token, rows = note.get("round"), note.get("rows")
    if not isinstance(token, str) or not 0 < len(token) <= 32 or type(rows) is not int or rows < 0:
        raise DecodeError("A request for a snapshot has no round, or no number of rows.")
    using = router.db_for_write(MasterRegistry.get_model_by_cqrs_id(cqrs_id))
    states = SyncState.objects.using(using)
    state = states.of(cqrs_id, queue, SyncMode.SNAPSHOT)
    mine = states.filter(pk=state.pk)
    begin = {"round": token, "position": "{}", "started_at": Now(), "finished_at": None, "done": 0, "updated_at": Now()}
    if mine.exclude(round=token).update(**begin):
        _send(cqrs_id, queue, rows, mine, anew=True)
    elif mine.running().update_stale(STALE_SECONDS):
        _send(cqrs_id, queue, rows, mine, anew=False)
    elif mine.running().exists() or not mine.update_stale(DIGEST_SECONDS):
        return "busy"
    else:
        return "compared" if _compare(cqrs_id, queue, token, mine) else "busy"
    _compare(cqrs_id, queue, token, mine)
    return "sent"


def _send(cqrs_id: str, queue: str, rows: int, mine: Any, *, anew: bool) -> None:
    """Send every row; a replica that has most of them is better served by the digest alone."""
    model = MasterRegistry.get_model_by_cqrs_id(cqrs_id)
    total = model._base_manager.using(mine.db).count()
    mine.update(total=total)
    done = 0
    if not anew or not rows or 2 * rows < total:
        wanted = syncing.Wanted(mode=SyncMode.FULL, queue=queue, resume=not anew)
        done = syncing.run(
            [cqrs_id], wanted, lambda _, so_far: mine.update(done=so_far, updated_at=Now()) and None
        )[cqrs_id]
    mine.update(position=None, done=done, finished_at=Now(), updated_at=Now())
    logger.info("%s rows of %s were sent to %s.", done, cqrs_id, queue, extra={"action": "cqrs_snapshot_sent"})


def _compare(cqrs_id: str, queue: str, token: str, mine: Any) -> bool:
    """Have the replica compare, once a digest holds every row from before the sending."""
    started = mine.values_list("started_at", flat=True).get()
    if (timezone.now() - started).total_seconds() < digests.SETTLE_SECONDS:
        return False
    syncing.run([cqrs_id], syncing.Wanted(mode=SyncMode.DIGEST, queue=queue, snapshot=token))
    return True
