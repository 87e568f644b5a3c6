"""What can be said about outbox rows, tombstones and dead letters, as verbs on their querysets.

Times are the database's own clock, so that several machines agree on what is due.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db import connections, models, transaction
from django.db.models import Q
from django.db.models.functions import Coalesce, Now

from django_cqrs_celery.constants import DeadLetterStatus, OutboxStatus, SignalType

if TYPE_CHECKING:
    from typing_extensions import Self


def new_token() -> str:
    """A name for one holder of a lease."""
    return uuid.uuid4().hex


class LeasedQuerySet(models.QuerySet[Any]):
    """Rows that one worker at a time may hold for a while."""

    def free(self) -> Self:
        """Rows that nobody holds, or whose holder's time is over."""
        return self.filter(Q(leased_until__isnull=True) | Q(leased_until__lt=Now()))

    def take(self, *, token: str, seconds: float, limit: int) -> list[Any]:
        """Lease up to ``limit`` of these rows in a short transaction of its own; skips what others are taking."""
        using = self.db
        if connections[using].vendor == "postgresql":
            return self._take_at_once(token, seconds, limit)
        features = connections[using].features
        with transaction.atomic(using=using):
            if not features.has_select_for_update:
                # Where rows cannot be locked, a write that matches nothing takes the database's write lock first.
                self.model._base_manager.using(using).filter(pk=-1).update(lease_token=token)
            rows = self.free().select_for_update(skip_locked=features.has_select_for_update_skip_locked)
            taken = list(rows[:limit])
            if taken:
                self.model._base_manager.using(using).filter(pk__in=[row.pk for row in taken]).update(
                    lease_token=token, leased_until=Now() + timedelta(seconds=seconds)
                )
        return taken

    def _take_at_once(self, token: str, seconds: float, limit: int) -> list[Any]:
        """The same in one statement, where the database has ``UPDATE … RETURNING`` and ``SKIP LOCKED``."""
        connection = connections[self.db]
        quote = connection.ops.quote_name
        options = self.model._meta
        fields = [field.attname for field in options.concrete_fields]
        chosen, params = self.free().values("pk")[:limit].query.get_compiler(self.db).as_sql()
        sql = (
            f"UPDATE {quote(options.db_table)} SET lease_token = %s, leased_until = STATEMENT_TIMESTAMP() + %s"
            f" WHERE {quote(options.pk.column)} IN ({chosen} FOR UPDATE SKIP LOCKED)"
            f" RETURNING {', '.join(quote(field.column) for field in options.concrete_fields)}"
        )
        with connection.cursor() as cursor:
            cursor.execute(sql, (token, timedelta(seconds=seconds), *params))  # type: ignore[arg-type]
            rows = cursor.fetchall()
        return sorted((self.model.from_db(self.db, fields, row) for row in rows), key=lambda row: row.pk)

    def held_by(self, token: str, pks: Iterable[int]) -> Self:
        """Those of the rows that ``token`` still holds."""
        return self.filter(pk__in=list(pks), lease_token=token)

    def release(self, token: str, pks: Iterable[int], *, after: float = 0.0) -> int:
        """Give rows back, to be taken again ``after`` seconds."""
        until = Now() + timedelta(seconds=after) if after > 0 else None
        return self.held_by(token, pks).update(lease_token=None, leased_until=until)


class ClaimedRow(NamedTuple):
    """What a publisher needs of an outbox row; the names are those of ``OutboxMessage``, which serves as well."""

    pk: int
    signal_type: str
    cqrs_id: str
    instance_pk: str
    revision: int | None
    instance_data: str | None
    previous_data: str | None
    meta: str | None
    correlation_id: str | None
    queue: str | None


#: Lets the transaction of one statement end before its commit is on the disk. If a crash of the database server takes
#: it back, a claim or the end of a promise, a change goes out twice; and the disk is free for the saves.
_LAZY_COMMIT = "set_config('synchronous_commit', 'off', true)"


@cache
def _claim_sql(table: str, lazy: bool) -> str:
    wanted = [*ClaimedRow._fields[1:], _LAZY_COMMIT if lazy else "NULL"]
    return (
        f'UPDATE "{table}" SET lease_token = %s, leased_until = STATEMENT_TIMESTAMP() + %s WHERE id IN ('
        f'SELECT id FROM "{table}" WHERE status = {int(OutboxStatus.PENDING)}'
        " AND (leased_until IS NULL OR leased_until < STATEMENT_TIMESTAMP()) ORDER BY id LIMIT %s"
        f" FOR UPDATE SKIP LOCKED) RETURNING id, {', '.join(wanted)}"
    )


class OutboxQuerySet(LeasedQuerySet):
    """Verbs of the outbox.

    What every publishing does is plain SQL on PostgreSQL: its Python would be taken from the saves.
    """

    def pending(self) -> Self:
        """Rows that are not published yet."""
        return self.filter(status=int(OutboxStatus.PENDING))

    def claim(self, *, token: str, seconds: float, limit: int) -> list[Any]:
        """Lease the oldest pending rows that are free."""
        if connections[self.db].vendor == "postgresql":
            sql = _claim_sql(self.model._meta.db_table, not connections[self.db].in_atomic_block)
            with connections[self.db].cursor() as cursor:
                cursor.execute(sql, (token, timedelta(seconds=seconds), limit))  # type: ignore[arg-type]
                return sorted(ClaimedRow._make(row[:-1]) for row in cursor.fetchall())
        return self.pending().order_by("pk").take(token=token, seconds=seconds, limit=limit)

    def published(self, token: str, pks: Sequence[int]) -> None:
        """Forget rows that the broker has confirmed."""
        if pks and connections[self.db].vendor == "postgresql":
            table = self.model._meta.db_table
            sql = f'DELETE FROM "{table}" WHERE id = ANY(%s) AND lease_token = %s AND signal_type <> %s'
            if not connections[self.db].in_atomic_block:
                sql += f" AND {_LAZY_COMMIT} = 'off'"
            with connections[self.db].cursor() as cursor:
                cursor.execute(sql, (list(pks), token, SignalType.DELETE.value))
        elif pks:
            self.held_by(token, pks).exclude(signal_type=SignalType.DELETE.value)._raw_delete(self.db)

    def published_deletes(self, token: str, pks: Sequence[int]) -> None:
        """Keep confirmed deletes as the master's tombstones."""
        if pks:
            self.held_by(token, pks).filter(signal_type=SignalType.DELETE.value).update(
                status=int(OutboxStatus.SENT), lease_token=None, leased_until=None
            )

    def refuse(self, token: str, pks: Sequence[int], reason: str) -> None:
        """Mark rows that cannot be published, with the reason."""
        self.held_by(token, pks).update(
            status=int(OutboxStatus.FAILED), error=reason, lease_token=None, leased_until=None
        )

    def failed(self) -> Self:
        """Rows that could not be published."""
        return self.filter(status=int(OutboxStatus.FAILED))

    def tombstones(self) -> Self:
        """Deletes, published or not: the master's memory of last revisions."""
        return self.filter(signal_type=SignalType.DELETE.value)

    def deletes_of(self, cqrs_id: str, pks: Sequence[str]) -> list[tuple[str, int]]:
        """Primary key text and revision of the deletes of some rows."""
        if connections[self.db].vendor == "postgresql":
            # A dump asks this for every row: an array takes less Python than a list of parameters.
            sql = (
                f'SELECT instance_pk, revision FROM "{self.model._meta.db_table}"'
                " WHERE signal_type = %s AND cqrs_id = %s AND instance_pk = ANY(%s)"
            )
            with connections[self.db].cursor() as cursor:
                cursor.execute(sql, (SignalType.DELETE.value, cqrs_id, list(pks)))
                return cursor.fetchall()
        rows = self.tombstones().filter(cqrs_id=cqrs_id, instance_pk__in=list(pks))
        return list(rows.values_list("instance_pk", "revision"))

    def purge_tombstones(self, *, older_than: float) -> int:
        """Forget published deletes of more than ``older_than`` seconds ago."""
        return self.filter(
            status=int(OutboxStatus.SENT), created_at__lt=Now() - timedelta(seconds=older_than)
        )._raw_delete(self.db)


class TombstoneQuerySet(models.QuerySet[Any]):
    """Verbs of the tombstones."""

    def revisions(self, cqrs_id: str, pks: Iterable[str]) -> dict[str, int]:
        """Remembered revision by primary key text."""
        if connections[self.db].vendor == "postgresql":
            # Every batch asks this: an array takes less Python than a list of parameters.
            table = self.model._meta.db_table
            sql = f'SELECT instance_pk, revision FROM "{table}" WHERE cqrs_id = %s AND instance_pk = ANY(%s)'
            with connections[self.db].cursor() as cursor:
                cursor.execute(sql, (cqrs_id, list(pks)))
                return dict(cursor.fetchall())
        return dict(self.filter(cqrs_id=cqrs_id, instance_pk__in=list(pks)).values_list("instance_pk", "revision"))

    def remember(self, cqrs_id: str, revisions: Mapping[str, int], known: Mapping[str, int]) -> None:
        """Write the revisions of deletes; ``known`` are the tombstones that exist already."""
        fresh = [
            self.model(cqrs_id=cqrs_id, instance_pk=pk, revision=revision)
            for pk, revision in sorted(revisions.items())
            if pk not in known
        ]
        for pk, revision in sorted(revisions.items()):
            if pk in known:
                self.filter(cqrs_id=cqrs_id, instance_pk=pk, revision__lt=revision).update(
                    revision=revision, deleted_at=None
                )
        if fresh:
            self.bulk_create(fresh, ignore_conflicts=True)

    def purge(self, *, older_than: float) -> int:
        """Forget tombstones of more than ``older_than`` seconds ago."""
        return self.filter(created_at__lt=Now() - timedelta(seconds=older_than))._raw_delete(self.db)


class PendingLinkQuerySet(models.QuerySet[Any]):
    """Verbs of the links that wait."""

    def of_rows(self, cqrs_id: str, pks: Iterable[str]) -> Self:
        """Links that some rows own."""
        return self.filter(cqrs_id=cqrs_id, instance_pk__in=list(pks))

    def for_target(self, model: str, pks: Iterable[str]) -> Self:
        """Links that lead to some rows of a model."""
        return self.filter(target_model=model, target_pk__in=list(pks))


class DeadLetterQuerySet(LeasedQuerySet):
    """Verbs of the dead letters."""

    OPEN = (DeadLetterStatus.PENDING.value, DeadLetterStatus.WAITING.value, DeadLetterStatus.DEAD.value)

    def open(self) -> Self:
        """Letters that are not closed."""
        return self.filter(status__in=self.OPEN)

    def any_open(self) -> bool:
        """Whether any letter is not closed: plain SQL, because every batch asks."""
        connection = connections[self.db]
        quote = connection.ops.quote_name
        sql = f"SELECT 1 FROM {quote(self.model._meta.db_table)} WHERE {quote('status')} IN (%s, %s, %s) LIMIT 1"
        with connection.cursor() as cursor:
            cursor.execute(sql, self.OPEN)
            return cursor.fetchone() is not None

    def of_row(self, cqrs_id: str, pks: Iterable[str]) -> Self:
        """Letters of some rows of a model."""
        return self.filter(cqrs_id=cqrs_id, instance_pk__in=list(pks))

    def due(self) -> Self:
        """Pending letters whose time has come, oldest first."""
        return self.filter(status=DeadLetterStatus.PENDING.value, next_retry_at__lte=Now()).order_by(
            "next_retry_at", "pk"
        )

    def waiting(self) -> Self:
        """Letters that wait for a parent row."""
        return self.filter(status=DeadLetterStatus.WAITING.value)

    def waiting_for(self, cqrs_id: str, pks: Iterable[str]) -> Self:
        """Letters that wait for some rows of a parent model."""
        return self.waiting().filter(waiting_cqrs_id=cqrs_id, waiting_pk__in=list(pks))

    def close(self, status: DeadLetterStatus) -> int:
        """Close letters as resolved or superseded."""
        return self.update(
            status=status.value, next_retry_at=None, lease_token=None, leased_until=None, updated_at=Now()
        )

    def over(self) -> DeadLetterQuerySet:
        """Letters that nothing tries again: closed ones and dead ones."""
        return self.filter(
            status__in=(
                DeadLetterStatus.DEAD.value, DeadLetterStatus.SUPERSEDED.value, DeadLetterStatus.RESOLVED.value,
            )
        )  # fmt: skip

    def purge(self, *, older_than: float) -> int:
        """Forget closed and dead letters that have not changed for ``older_than`` seconds."""
        return self.over().filter(updated_at__lt=Now() - timedelta(seconds=older_than))._raw_delete(self.db)

    def abandon(self, *, older_than: float) -> int:
        """Mark letters as dead that have waited for their parent for ``older_than`` seconds."""
        old = self.waiting().filter(updated_at__lt=Now() - timedelta(seconds=older_than))
        return old.update(status=DeadLetterStatus.DEAD.value, updated_at=Now())


class SyncStateQuerySet(models.QuerySet[Any]):
    """Verbs of the states of syncs."""

    def of(self, cqrs_id: str, queue: str | None, mode: str) -> Any:
        """The state of a model and a replica (None: all replicas), made when it is first wanted."""
        return self.get_or_create(cqrs_id=cqrs_id, queue=queue or "", mode=str(mode))[0]

    def update_stale(self, seconds: float) -> bool:
        """Take over what has given no sign of life for so long; whether there was such."""
        return bool(self.filter(updated_at__lt=Now() - timedelta(seconds=seconds)).update(updated_at=Now()))

    def running(self) -> Self:
        """Syncs that have begun and not ended."""
        return self.filter(position__isnull=False)

    def alive(self, seconds: float) -> Self:
        """Those that have given a sign of life within so many seconds."""
        return self.filter(updated_at__gte=Now() - timedelta(seconds=seconds))

    def purge(self, *, older_than: float) -> int:
        """Forget replicas that have not answered for ``older_than`` seconds: their queues are gone."""
        return self.filter(updated_at__lt=Now() - timedelta(seconds=older_than))._raw_delete(self.db)


class PresenceQuerySet(models.QuerySet[Any]):
    """Verbs of the presence of workers."""

    def note(self, queue: str, *, longest: float) -> Any:
        """Note that a worker is there; returns the row if there was an absence of more than ``longest`` seconds."""
        mine = self.filter(queue=queue)
        mine.filter(seen_at__lt=Now() - timedelta(seconds=longest)).update(
            away_since=Coalesce("away_since", "seen_at"), away_until=Now()
        )
        if not mine.update(seen_at=Now()):
            self.bulk_create([self.model(queue=queue)], ignore_conflicts=True)
        return self.absences().filter(queue=queue).first()

    def absences(self) -> Self:
        """Queues that nobody consumed for longer than tombstones live."""
        return self.filter(away_since__isnull=False)

    def settle(self) -> int:
        """The replica was synchronised: the absences are over."""
        return self.absences().update(away_since=None, away_until=None)


class SuspectQuerySet(models.QuerySet[Any]):
    """Verbs of messages that came again."""

    def begin(self, identity: str) -> int:
        """Count that a message is begun, at once and for good; returns how often it was."""
        with transaction.atomic(using=self.db):
            if not self.filter(pk=identity).update(attempts=models.F("attempts") + 1):
                self.bulk_create([self.model(identity=identity, attempts=1)], ignore_conflicts=True)
            return self.values_list("attempts", flat=True).get(pk=identity)

    def end(self, identity: str) -> None:
        """Forget a message that has not killed its worker."""
        self.filter(pk=identity)._raw_delete(self.db)

    def purge(self, *, older_than: float) -> int:
        """Forget messages that never came again."""
        return self.filter(created_at__lt=Now() - timedelta(seconds=older_than))._raw_delete(self.db)
