"""Rows that were read and locked for a whole batch, for the default hooks, which would else read them one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any


class Rows:
    """Instances by primary key, None for a row that is not there; each is given out once, as it was read."""

    def __init__(self, model: Any, using: str, rows: Mapping[Any, Any]) -> None:
        self.model, self.using = model, using
        self._rows = dict(rows)

    def take(self, pk: Any, otherwise: Any) -> Any:
        """The instance or None; ``otherwise`` where it has to be read."""
        return self._rows.pop(pk, otherwise)

    def forget(self) -> None:
        """Have all rows read again: something else may have changed them."""
        self._rows.clear()


_current: ContextVar[Rows | None] = ContextVar("cqrs_preloaded", default=None)


@contextmanager
def offered(rows: Rows | None) -> Iterator[None]:
    """Let hooks take the rows."""
    before = _current.set(rows)
    try:
        yield
    finally:
        _current.reset(before)


def take(model: Any, using: str, pk: Any, otherwise: Any) -> Any:
    """A row that was read and locked already: the instance, or None; ``otherwise`` where it has to be read."""
    rows = _current.get()
    if rows is None or rows.model is not model or rows.using != using:
        return otherwise
    return rows.take(pk, otherwise)
