"""Deletes for rows that a replica has and the master has not, which are never those that are just being created."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from django.db import connections, transaction

from django_cqrs_celery import digests, images, outbox, sync, triggers
from django_cqrs_celery.constants import REVISION_FIELD, OutboxStatus, SignalType
from django_cqrs_celery.models import OutboxMessage

logger = logging.getLogger("django_cqrs_celery.repairs")

#: How long a delete waits for transactions that may be creating the row; then the next round sees to it.
WAIT_SECONDS = 5.0
#: Transactions that have written something, of this database alone: a snapshot would wait for those of others, too.
_WRITERS = (
    "SELECT backend_xid::text FROM pg_stat_activity"
    " WHERE datname = current_database() AND backend_xid IS NOT NULL AND pid <> pg_backend_pid()"
    " UNION ALL SELECT transaction::text FROM pg_prepared_xacts WHERE database = current_database()"
)


def filter_of(model: Any) -> Callable[[Any], bool] | None:
    """What decides whether a row of a master model is replicated; None where all are."""
    if sync.takes_all_rows(model):
        return None
    return lambda instance: bool(instance.is_sync_instance())


class Burial:
    """Deletes for rows that the master does not have, for one replica.

    First the tombstone is written and committed, unpublished; then it waits for transactions that were open, any of
    which may have created the row without having seen the tombstone; and only if there is no row then, the tombstone
    becomes a delete to be published. Who creates the row later sees the tombstone and continues above it.

    ``publish`` False: the replica is told in another way.
    """

    def __init__(self, model: Any, using: str, queue: str | None, *, publish: bool = True) -> None:
        self.model, self.using, self.queue, self.publish = model, using, queue, publish
        self.keep = filter_of(model)
        self.rows = OutboxMessage.objects.using(using)
        self.created: list[Any] = []
        #: Revision of each delete that was made, by key text.
        self.made: dict[str, int] = {}

    def bury(self, absent: dict[str, int]) -> int:
        """Delete the rows, given the replica's revision of each by key text; returns how many.

        ``created`` has the keys of rows that turned out to exist: sent again, they go out above the tombstone.
        """
        items = sorted(absent.items())
        for start in range(0, len(items), 1000):
            self._bury_some(dict(items[start : start + 1000]))
        return len(self.made)

    def _bury_some(self, absent: dict[str, int]) -> None:
        gone = {text: revision for text, revision in absent.items() if not self._has_left(text, revision)}
        with transaction.atomic(using=self.using):
            written = self._write_tombstones(gone)
        if not written:
            return
        if not self._wait_for_creators():
            logger.info("Deletes wait for a long transaction; the next round sees to them.")
            return
        with transaction.atomic(using=self.using):
            present = self._present(list(written))
            self.created += [images.python_pk(self.model, text) for text in present]
            sure = {text: row for text, row in written.items() if text not in present}
            if self.publish:
                self.rows.filter(pk__in=[row.pk for row in sure.values()]).update(status=int(OutboxStatus.PENDING))
                outbox.announce(self.using)
        self.made.update({text: row.revision or 0 for text, row in sure.items()})

    def _write_tombstones(self, gone: dict[str, int]) -> dict[str, OutboxMessage]:
        last = outbox.last_deleted(self.model.CQRS_ID, list(gone), self.using)
        made = {}
        for text, revision in gone.items():
            row = self.rows.create(
                status=int(OutboxStatus.SENT), signal_type=SignalType.DELETE.value, cqrs_id=self.model.CQRS_ID,
                instance_pk=text, queue=self.queue, revision=max(revision, last.get(text, 0)) + 1,
            )  # fmt: skip
            made[text] = row
        return made

    def _wait_for_creators(self) -> bool:
        """Whether every transaction is over that had written something before the tombstones were committed."""
        connection = connections[self.using]
        if connection.vendor != "postgresql":
            return True  # one writer at a time, or a locking read that waits
        end = time.monotonic() + WAIT_SECONDS
        with connection.cursor() as cursor:
            cursor.execute(_WRITERS)
            open_then = {row[0] for row in cursor.fetchall()}
            while open_then:
                if time.monotonic() > end:
                    return False
                time.sleep(0.05)
                cursor.execute(_WRITERS)
                open_then &= {row[0] for row in cursor.fetchall()}
        return True

    def _present(self, texts: list[str]) -> set[str]:
        """Rows that are there now, those of transactions that have begun before included."""
        rows = self.model._base_manager.using(self.using).order_by("pk")
        if connections[self.using].vendor == "mysql":
            rows = rows.select_for_update()
        keys = [images.python_pk(self.model, text) for text in texts]
        return {digests.wire_text(self.model, pk) for pk in rows.filter(pk__in=keys).values_list("pk", flat=True)}

    def _has_left(self, text: str, known: int) -> bool:
        """Delete a row on the replica that is here and not replicated any more; its revision goes on above that."""
        if self.keep is None:
            return False
        with transaction.atomic(using=self.using):
            rows = self.model._base_manager.using(self.using).filter(pk=images.python_pk(self.model, text))
            if connections[self.using].features.has_select_for_update:
                rows = rows.select_for_update()
            instance = rows.first()
            if instance is None:
                return False
            if not self.keep(instance):
                self._take_away(text, known, instance)
        return True

    def _take_away(self, text: str, known: int, instance: Any) -> None:
        last = outbox.last_deleted(self.model.CQRS_ID, [text], self.using).get(text, 0)
        revision = max(getattr(instance, REVISION_FIELD), last, known) + 1
        rows = self.model._base_manager.using(self.using).filter(pk=instance.pk)
        rows.update(**{REVISION_FIELD: triggers.written(self.model, self.using, revision)})
        self.rows.create(
            signal_type=SignalType.DELETE.value, cqrs_id=self.model.CQRS_ID, instance_pk=text, queue=self.queue,
            revision=revision, status=int(OutboxStatus.PENDING if self.publish else OutboxStatus.SENT),
        )  # fmt: skip
        self.made[text] = revision
        if self.publish:
            outbox.announce(self.using)
