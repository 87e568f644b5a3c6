"""Which of two states of a row is newer: the rule of the whole project, as one pure function."""

from __future__ import annotations

from django_cqrs_celery.constants import Outcome, SignalType


def decide(
    *,
    signal_type: SignalType,
    revision: int,
    known: int | None,
    tombstone: int | None,
    force: bool = False,
) -> Outcome:
    """What a change of ``revision`` does to a row of the replica.

    ``known`` is the revision of the row that is there, None where there is none; ``tombstone`` that of the last delete.
    Older is stale, equal is a duplicate; a SYNC rewrites an equal row, and with ``force`` an older one wins too.
    """
    if signal_type is SignalType.DELETE:
        if known is None:
            return Outcome.DUPLICATE if tombstone is not None and tombstone >= revision else Outcome.DELETED
        return Outcome.DELETED if revision > known or force else Outcome.STALE
    sync = signal_type is SignalType.SYNC
    if known is None:
        if tombstone is not None and tombstone >= revision and not (sync and force):
            return Outcome.STALE
        return Outcome.CREATED
    if revision > known or (sync and (force or revision == known)):
        return Outcome.UPDATED
    return Outcome.DUPLICATE if revision == known else Outcome.STALE
