"""Clean-up: what has been kept for its documented time goes."""

from __future__ import annotations

import logging

from django_cqrs_celery import conf, dead_letters, outbox
from django_cqrs_celery.models import DeadLetter, OutboxMessage, Suspect, SyncState, Tombstone

logger = logging.getLogger("django_cqrs_celery.purging")


def purge() -> dict[str, int]:
    """Forget old tombstones on both sides and old dead letters; returns how many of each went."""
    gone = {"master_tombstones": 0, "replica_tombstones": 0, "dead_letters": 0}
    ttl = conf.dead_message_ttl()
    for using in outbox.aliases():
        rows = OutboxMessage.objects.using(using)
        gone["master_tombstones"] += rows.purge_tombstones(older_than=conf.tombstone_ttl())
        SyncState.objects.using(using).purge(older_than=conf.tombstone_ttl())
    for using in dead_letters.aliases():
        gone["replica_tombstones"] += Tombstone.objects.using(using).purge(older_than=conf.replica_tombstone_ttl())
        if ttl is not None:
            gone["dead_letters"] += DeadLetter.objects.using(using).purge(older_than=ttl)
            _abandon(using, ttl)
        Suspect.objects.using(using).purge(older_than=conf.replica_tombstone_ttl())
    if gone["dead_letters"]:
        logger.warning(
            "%s dead letters are past CQRS['replica']['dead_message_ttl'] and were removed.", gone["dead_letters"],
            extra={"action": "cqrs_dead_letters_expired"},
        )  # fmt: skip
    return gone


def _abandon(using: str, ttl: float) -> None:
    abandoned = DeadLetter.objects.using(using).abandon(older_than=ttl)
    if abandoned:
        logger.error(
            "%s changes have waited for their parent rows for longer than CQRS['replica']['dead_message_ttl'] and are"
            " marked dead: send the parents with cqrs_sync and retry the letters, or let them go.", abandoned,
            extra={"action": "cqrs_waiting_abandoned"},
        )  # fmt: skip
