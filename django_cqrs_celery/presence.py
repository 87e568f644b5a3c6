"""Whether a worker is there for the replica's queue: noted every minute, so that a long absence is not taken for quiet.

A replica that was away for longer than tombstones live may keep rows that were deleted on the master meanwhile.
"""

from __future__ import annotations

import logging

from django.db import DatabaseError, router

from django_cqrs_celery import conf, dead_letters
from django_cqrs_celery.models import DeadLetter, Presence

logger = logging.getLogger("django_cqrs_celery.presence")

#: Seconds between two notes.
SECONDS = 60.0


def note() -> None:
    """Note that a worker is there, and say so where none was for longer than tombstones live."""
    queue = conf.queue()
    if queue is None:
        return
    try:
        rows = Presence.objects.using(router.db_for_write(DeadLetter))
        absence = rows.note(queue, longest=conf.replica_tombstone_ttl())
    except DatabaseError as error:
        logger.debug("The worker's presence was not noted: %s", error, extra={"action": "cqrs_presence_failed"})
        return
    if absence:
        logger.error(
            "No worker was there for %s from %s to %s, longer than tombstones live: rows that were deleted meanwhile"
            " may still be here. Refill the replica (see 'A replica was away for long' in the documentation), then run"
            " cqrs_status --synchronised.", queue, absence.away_since, absence.away_until,
            extra={"action": "cqrs_absence"},
        )  # fmt: skip


def settle() -> int:
    """The replica was synchronised: forget that it was away; returns how many absences were noted."""
    return sum(Presence.objects.using(alias).settle() for alias in dead_letters.aliases())
