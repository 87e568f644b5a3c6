"""The tables: promises to publish, remembered deletes, links that wait, changes that could not be applied, the state of
syncs, and what workers note.

Only plain columns with defaults in the database, so that SQL that does not come from Django can write them too.
"""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from django_cqrs_celery.constants import (
    CQRS_ID_MAX_LENGTH,
    PK_MAX_LENGTH,
    DeadLetterStatus,
    OutboxStatus,
    SignalType,
    SyncMode,
)
from django_cqrs_celery.querysets import (
    DeadLetterQuerySet,
    OutboxQuerySet,
    PendingLinkQuerySet,
    PresenceQuerySet,
    SuspectQuerySet,
    SyncStateQuerySet,
    TombstoneQuerySet,
)


class OutboxMessage(models.Model):
    """A promise, made in the transaction of a change, that the change will be published.

    ``status``: see ``OutboxStatus``. ``signal_type``, ``cqrs_id``, ``instance_pk`` (text of the wire value): which
    change of which row. ``revision``: of a delete, the revision after the row's last. ``instance_data``,
    ``previous_data``, ``meta``: JSON text or NULL; a SAVE stores no data, its row is read when it is published.
    ``queue``: the one replica queue it is for, NULL for all. ``lease_token``, ``leased_until``: who is publishing it
    and for how long. ``attempts``, ``error``: what went wrong so far.
    """

    id = models.BigAutoField(primary_key=True)
    status = models.SmallIntegerField(
        choices=[(int(s), s.name.lower()) for s in OutboxStatus], default=0, db_default=0
    )
    signal_type = models.CharField(max_length=10, choices=[(s.value, s.value) for s in SignalType])
    cqrs_id = models.CharField(max_length=CQRS_ID_MAX_LENGTH)
    instance_pk = models.CharField(max_length=PK_MAX_LENGTH)
    revision = models.IntegerField(null=True)
    instance_data = models.TextField(null=True)
    previous_data = models.TextField(null=True)
    meta = models.TextField(null=True)
    correlation_id = models.CharField(max_length=255, null=True)
    queue = models.CharField(max_length=255, null=True)
    created_at = models.DateTimeField(db_default=Now())
    lease_token = models.CharField(max_length=32, null=True)
    leased_until = models.DateTimeField(null=True)
    attempts = models.IntegerField(default=0, db_default=0)
    error = models.TextField(null=True)

    objects = OutboxQuerySet.as_manager()

    class Meta:
        verbose_name = "outbox message"
        indexes = [
            models.Index(fields=["status", "id"], name="cqrs_outbox_due"),
            models.Index(fields=["cqrs_id", "instance_pk"], name="cqrs_outbox_row"),
        ]

    def __str__(self) -> str:
        return f"{self.signal_type} {self.cqrs_id} {self.instance_pk}"


class Tombstone(models.Model):
    """The remembered revision of a deleted row on a replica, so that a late change cannot bring the row back.

    ``cqrs_id``, ``instance_pk`` (text of the wire value), ``revision`` of the delete, ``created_at``. ``deleted_at``:
    when a django-cqrs master made the delete, NULL for deletes of other masters; see ``recreations``.
    """

    id = models.BigAutoField(primary_key=True)
    cqrs_id = models.CharField(max_length=CQRS_ID_MAX_LENGTH)
    instance_pk = models.CharField(max_length=PK_MAX_LENGTH)
    revision = models.IntegerField()
    deleted_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now())

    objects = TombstoneQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["cqrs_id", "instance_pk"], name="cqrs_tombstone_row"),
        ]
        indexes = [models.Index(fields=["created_at"], name="cqrs_tombstone_age")]

    def __str__(self) -> str:
        return f"{self.cqrs_id} {self.instance_pk} deleted at {self.revision}"


class PendingLink(models.Model):
    """A link of a many-to-many field on a replica that waits for the row that it leads to.

    ``cqrs_id``, ``instance_pk`` (text of the wire value): the row that owns the link. ``field``: its field on the
    replica. ``target_model`` (label in lower case), ``target_pk``: the row that is not here. ``created_at``.
    """

    id = models.BigAutoField(primary_key=True)
    cqrs_id = models.CharField(max_length=CQRS_ID_MAX_LENGTH)
    instance_pk = models.CharField(max_length=PK_MAX_LENGTH)
    field = models.CharField(max_length=128)
    target_model = models.CharField(max_length=255)
    target_pk = models.CharField(max_length=PK_MAX_LENGTH)
    created_at = models.DateTimeField(db_default=Now())

    objects = PendingLinkQuerySet.as_manager()

    class Meta:
        verbose_name = "pending link"
        indexes = [
            models.Index(fields=["cqrs_id", "instance_pk"], name="cqrs_link_owner"),
            models.Index(fields=["target_model", "target_pk"], name="cqrs_link_target"),
        ]

    def __str__(self) -> str:
        return f"{self.cqrs_id} {self.instance_pk}.{self.field} waits for {self.target_model} {self.target_pk}"


class DeadLetter(models.Model):
    """A change, or a whole message, that a replica could not apply: kept, retried, visible.

    ``status``: see ``DeadLetterStatus``. ``cqrs_id``, ``instance_pk``, ``signal_type``, ``revision``: NULL or empty
    where the message could not be read. ``payload``: the change as JSON text, or what arrived. ``error_class``,
    ``error_message``, ``traceback``: of the last failure. ``retries``: failures so far. ``next_retry_at``: when it is
    tried again. ``waiting_cqrs_id``, ``waiting_pk``: the parent row that it waits for. ``lease_token``,
    ``leased_until``: who is retrying it.
    """

    id = models.BigAutoField(primary_key=True)
    status = models.CharField(
        max_length=12,
        choices=[(s.value, s.value) for s in DeadLetterStatus],
        default=DeadLetterStatus.PENDING.value,
    )
    cqrs_id = models.CharField(max_length=CQRS_ID_MAX_LENGTH, blank=True, default="")
    instance_pk = models.CharField(max_length=PK_MAX_LENGTH, blank=True, default="")
    signal_type = models.CharField(max_length=10, blank=True, default="")
    revision = models.BigIntegerField(null=True, blank=True)
    correlation_id = models.CharField(max_length=255, null=True, blank=True)
    payload = models.TextField()
    error_class = models.CharField(max_length=255)
    error_message = models.TextField(blank=True, default="")
    traceback = models.TextField(blank=True, default="")
    retries = models.IntegerField(default=0)
    next_retry_at = models.DateTimeField(null=True, blank=True)
    waiting_cqrs_id = models.CharField(max_length=CQRS_ID_MAX_LENGTH, null=True, blank=True)
    waiting_pk = models.CharField(max_length=PK_MAX_LENGTH, null=True, blank=True)
    lease_token = models.CharField(max_length=32, null=True, blank=True)
    leased_until = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    objects = DeadLetterQuerySet.as_manager()

    class Meta:
        verbose_name = "dead letter"
        indexes = [
            models.Index(fields=["status", "next_retry_at"], name="cqrs_letter_due"),
            models.Index(fields=["cqrs_id", "instance_pk"], name="cqrs_letter_row"),
            models.Index(fields=["waiting_cqrs_id", "waiting_pk"], name="cqrs_letter_parent"),
        ]

    def __str__(self) -> str:
        return f"{self.cqrs_id or 'message'} {self.instance_pk} {self.status}: {self.error_class}"


class SyncState(models.Model):
    """On the master: how far a sync has come, and what the last one found out about a replica.

    ``cqrs_id``, ``queue`` (empty: of all replicas), ``mode``: see ``SyncMode``. ``round``: token of the last run;
    ``options``: what it was asked for, as JSON text. ``position``: where it goes on after a kill, as JSON text; NULL
    when it is not in progress. ``total``: rows that it will go through; ``done``: rows so far. ``started_at``,
    ``finished_at``, ``updated_at``: of the run. Of a replica: ``verified_at``: when it was last found equal;
    ``rows_compared``, ``rows_repaired``, ``rows_deleted``, ``rows_ahead``, ``rows_held_back`` of its last round;
    ``listings``: answers that are still to come; ``guarded``: whether deletes wait for a person; ``message``: what a
    person should know.
    """

    id = models.BigAutoField(primary_key=True)
    cqrs_id = models.CharField(max_length=CQRS_ID_MAX_LENGTH)
    queue = models.CharField(max_length=255, blank=True, default="")
    mode = models.CharField(max_length=10, choices=[(m.value, m.value) for m in SyncMode])
    round = models.CharField(max_length=32, default="")
    options = models.TextField(null=True)
    position = models.TextField(null=True)
    total = models.BigIntegerField(default=0)
    done = models.BigIntegerField(default=0)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField(db_default=Now())
    verified_at = models.DateTimeField(null=True)
    rows_compared = models.BigIntegerField(default=0)
    rows_repaired = models.BigIntegerField(default=0)
    rows_deleted = models.BigIntegerField(default=0)
    rows_ahead = models.BigIntegerField(default=0)
    rows_held_back = models.BigIntegerField(default=0)
    listings = models.IntegerField(default=0)
    guarded = models.BooleanField(default=False)
    message = models.TextField(null=True)

    objects = SyncStateQuerySet.as_manager()

    class Meta:
        verbose_name = "sync state"
        constraints = [
            models.UniqueConstraint(fields=["cqrs_id", "queue", "mode"], name="cqrs_sync_state"),
        ]

    def __str__(self) -> str:
        return f"{self.mode} sync of {self.cqrs_id} to {self.queue or 'all replicas'}"


class Presence(models.Model):
    """When a worker was last there for the queue of this replica, so that an absence can be told from quiet.

    ``queue``; ``seen_at``: noted every minute; ``away_since``, ``away_until``: of an absence that was longer than
    tombstones live, until somebody says that the replica was synchronised.
    """

    queue = models.CharField(max_length=255, primary_key=True)
    seen_at = models.DateTimeField(db_default=Now())
    away_since = models.DateTimeField(null=True)
    away_until = models.DateTimeField(null=True)

    objects = PresenceQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.queue} seen at {self.seen_at}"


class Suspect(models.Model):
    """A message that came again to a worker that applies in its main process: it may be what has killed that process.

    ``identity`` of the message, ``attempts`` begun and not ended, ``created_at``.
    """

    identity = models.CharField(max_length=64, primary_key=True)
    attempts = models.IntegerField()
    created_at = models.DateTimeField(db_default=Now())

    objects = SuspectQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.identity} begun {self.attempts} times"
