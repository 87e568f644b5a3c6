"""The words of the project: signal types, outcomes, statuses and fixed names."""

from __future__ import annotations

import enum

#: ``CQRS_FIELDS = ALL_BASIC_FIELDS`` replicates every concrete field.
ALL_BASIC_FIELDS = "__all__"
#: The correlation function gets this as its queue when a change goes to every replica.
NO_QUEUE = "None"

#: Columns that both sides of a replicated model have.
REVISION_FIELD = "cqrs_revision"
UPDATED_FIELD = "cqrs_updated"

#: Celery task names; they are part of the wire format.
TASK_APPLY = "django_cqrs_celery.tasks.cqrs_apply"
TASK_RELAY = "django_cqrs_celery.tasks.cqrs_relay"
TASK_SYNC = "django_cqrs_celery.tasks.cqrs_sync"
TASK_VERIFY = "django_cqrs_celery.tasks.cqrs_verify"
TASK_ANSWER = "django_cqrs_celery.tasks.cqrs_answer"
TASK_RETRY = "django_cqrs_celery.tasks.cqrs_retry_dead_letters"
TASK_PURGE = "django_cqrs_celery.tasks.cqrs_purge"

#: Version of the message format that this release writes.
WIRE_VERSION = 1

#: Longest primary key, as text, that the outbox, tombstones and dead letters can hold.
PK_MAX_LENGTH = 255
CQRS_ID_MAX_LENGTH = 128


class SignalType(str, enum.Enum):
    """What a change asks of a replica."""

    #: Create the row or bring it to this state.
    SAVE = "SAVE"
    #: Remove the row.
    DELETE = "DELETE"
    #: Like ``SAVE``, sent by a synchronisation; it also rewrites a row of the same revision.
    SYNC = "SYNC"

    __str__ = str.__str__


class Outcome(str, enum.Enum):
    """What applying a change did."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"
    #: Older than what the replica has; nothing was written.
    STALE = "stale"
    #: Exactly what the replica has; nothing was written.
    DUPLICATE = "duplicate"
    #: A SYNC for all, of which this replica model wants none (``CQRS_ONLY_DIRECT_SYNCS``).
    SKIPPED = "skipped"
    #: Set aside as a dead letter.
    FAILED = "failed"

    __str__ = str.__str__


class OutboxStatus(enum.IntEnum):
    """Where an outbox row is on its way."""

    PENDING = 0
    #: Published; only deletes are kept, as the master's tombstones.
    SENT = 1
    #: Cannot be published; ``error`` says why.
    FAILED = 2


#: ``revision`` of a SAVE in the outbox whose row is given its revision when it is published, not when it was written.
RAISE = -1


class SyncMode(str, enum.Enum):
    """How a sync finds what to send."""

    #: Every row.
    FULL = "full"
    #: Rows that a replica lacks, or has older, found by comparing digests.
    DIGEST = "digest"
    #: Every row to a replica that asks for them, and a digest afterwards; no choice of a sync.
    SNAPSHOT = "snapshot"

    __str__ = str.__str__


class DeadLetterStatus(str, enum.Enum):
    """Where a dead letter is on its way."""

    #: Retried at ``next_retry_at``.
    PENDING = "pending"
    #: Waits for its parent row; applied when the parent lands.
    WAITING = "waiting"
    #: Out of retries; a person decides.
    DEAD = "dead"
    #: A newer revision of the row has landed.
    SUPERSEDED = "superseded"
    #: Applied by a retry.
    RESOLVED = "resolved"

    __str__ = str.__str__
