"""Helpers for projects that replicate."""

from __future__ import annotations

from contextlib import ContextDecorator
from contextvars import ContextVar
from typing import Any

from django_cqrs_celery import signals
from django_cqrs_celery.registries import MasterRegistry

#: Database aliases whose commits wait to be published together; None outside of ``bulk_relate_cqrs_serialization``.
_held: ContextVar[set[str] | None] = ContextVar("cqrs_held", default=None)


def hold(using: str) -> bool:
    """Whether what was committed to a database waits for the end of a ``bulk_relate_cqrs_serialization``."""
    held = _held.get()
    if held is not None:
        held.add(using)
    return held is not None


class _Together(ContextDecorator):
    def __init__(self, cqrs_id: str | None) -> None:
        if cqrs_id is not None:
            MasterRegistry.get_model_by_cqrs_id(cqrs_id)
        self._tokens: list[Any] = []

    def __enter__(self) -> None:
        self._tokens.append(_held.set(set()))

    def __exit__(self, *error: object) -> None:
        held = _held.get() or set()
        _held.reset(self._tokens.pop())
        for using in sorted(held):
            # What an error has left uncommitted is not in the outbox; what was committed before it goes.
            if not hold(using):
                signals.outbox_committed.send(sender=type(self), using=using)


def bulk_relate_cqrs_serialization(cqrs_id: str | None = None) -> _Together:
    """Serialize the rows that are saved in a block together: a context manager, and a decorator.

    Rows are read by ``relate_cqrs_serialization`` when they are published: all that are due, with one query and what
    it prefetches. Only ``CQRS['master']['dispatch'] = 'on_commit'`` publishes after each commit; here it publishes
    once, at the end of the block. ``cqrs_id`` is the model that is saved there, ``UnknownCQRSId`` is raised where
    there is none; changes of other models are published together as well.
    """
    return _Together(cqrs_id)
