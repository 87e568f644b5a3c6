"""What the two ways of applying share: a change on its way through a batch, and what a batch offers to them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from django.db import InterfaceError, OperationalError, models

from django_cqrs_celery import cascades, serialization
from django_cqrs_celery.constants import Outcome, SignalType
from django_cqrs_celery.dataclasses import TransportPayload
from django_cqrs_celery.exceptions import MissingParent
from django_cqrs_celery.registries import ReplicaRegistry

logger = logging.getLogger("django_cqrs_celery.applier")

#: Errors of the database or of the way to it: the batch is tried again, nothing is set aside.
INFRASTRUCTURE = (OperationalError, InterfaceError)


class Aside(Protocol):
    """Where changes go that cannot be applied, and whence those come back that waited for others."""

    def set_aside(self, change: TransportPayload, error: BaseException, using: str) -> None:
        """Keep a change that failed, in the open transaction."""

    def open_change(self, cqrs_id: str, pk: str, using: str) -> TransportPayload | None:
        """The newest change of a row that was set aside and is not closed."""

    def landed(self, cqrs_id: str, revisions: dict[str, int], using: str) -> list[TransportPayload]:
        """Close what has become obsolete; return the changes that waited for these rows, to be applied now."""

    def look_again(self) -> None:
        """Something waits for a row that may be landing at this moment, unseen: have it looked at soon."""


@dataclass(eq=False)
class Item:
    """A change on its way through a batch."""

    change: TransportPayload
    position: int | None = None
    outcome: Outcome | None = None
    pk: Any = None
    values: dict[str, Any] = field(default_factory=dict)
    #: Whether ``values`` are wire values, for the way that has the database read them.
    is_wire: bool = False
    #: Keys of linked rows by many-to-many field, of those fields that the change speaks of.
    links: dict[models.ManyToManyField, set[Any]] = field(default_factory=dict)

    @property
    def pk_text(self) -> str:
        """Primary key as the text under which tombstones and dead letters know the row."""
        return serialization.pk_text(self.change.instance_pk)


class Batch(Protocol):
    """What a batch does for the tables that it is made of."""

    using: str

    def fail(self, item: Item, error: BaseException) -> None:
        """Note that a change cannot be applied; it is set aside."""

    def landed(self, model: Any, items: Iterable[Item]) -> list[TransportPayload]:
        """Note what has landed; returns changes that waited for it."""

    def links_wait(self) -> None:
        """Note that links wait for rows that are not here."""

    def set_aside_dependents(self, dependents: Sequence[cascades.Dependent]) -> None:
        """Keep the states of rows that are deleted with their parents, until they are wanted or deleted themselves."""


class Gaps:
    """Revisions that are missing between those of rows and of changes, for the log: each, and the sum of a batch."""

    def __init__(self) -> None:
        self.rows = self.revisions = 0

    def note(self, change: TransportPayload, known: int | None) -> None:
        """Look at one change; ``known`` is the revision of the row that is there."""
        gap = change.revision - known - 1 if known is not None else 0
        if gap > 0:
            self.rows, self.revisions = self.rows + 1, self.revisions + gap
            logger.debug(
                "%s %s: revision %s follows %s: lost or filtered out %s, or merged with it on the way.",
                change.cqrs_id, change.instance_pk, change.revision, known, gap, extra={"action": "cqrs_row_gap"},
            )  # fmt: skip

    def report(self, cqrs_id: str) -> None:
        """Say what a batch has shown."""
        if self.rows:
            logger.info(
                "%s: lost or filtered out %s revisions of %s rows, or merged with later ones on the way.", cqrs_id,
                self.revisions, self.rows, extra={"action": "cqrs_gap"},
            )  # fmt: skip


def is_newer(change: TransportPayload, other: TransportPayload) -> bool:
    """Whether of two changes of a row the first is the one that counts."""
    if change.revision != other.revision:
        return change.revision > other.revision
    return change.signal_type is SignalType.SYNC


def missing_parent(key: models.ForeignKey, value: Any) -> MissingParent:
    """The error of a change whose parent row is not here."""
    parent: Any = key.related_model
    cqrs_id = getattr(parent, "CQRS_ID", None)
    registered = ReplicaRegistry.models.get(cqrs_id) is parent if cqrs_id else False
    wire = serialization.encode(key.target_field, value)
    return MissingParent(
        f"{key} refers to a row of {parent._meta.label} that is not here yet.",
        cqrs_id if registered and key.target_field.primary_key else None,
        serialization.pk_text(wire),
    )
