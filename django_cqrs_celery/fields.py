"""The columns that order and date the states of a row.

An INSERT does not ask the database to give them back, as Django would for their ``db_default``: it writes both.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import models
from django.utils.functional import cached_property

#: Attribute of an instance under which capture leaves what the next UPDATE is to write.
NEXT_REVISION = "_cqrs_next_revision"
#: Attribute of an instance under which ``save`` leaves for capture, which comes in between, what it has found out: the
#: database alias, whether triggers capture, whether they do so alone.
CAPTURED = "_cqrs_captured"
#: Attribute of an instance whose revision is to be written as one that triggers leave alone.
MARKED = "_cqrs_marked"


def marked(revision: Any) -> Any:
    """A revision, or an expression of one, as Django writes it where it writes the outbox row itself.

    Triggers turn it back and keep silent. It takes no round trip, and is the same on all engines.
    """
    return models.Value(-1) - revision if hasattr(revision, "resolve_expression") else -1 - revision


class _Raised(models.Expression):
    """``column + 1``: as ``F(column) + 1``, without the cost of resolving it, which every save would pay."""

    def __init__(self, field: models.Field, marked: bool = False) -> None:
        super().__init__(output_field=field)
        self.marked = marked

    def resolve_expression(self, *args: Any, **kwargs: Any) -> _Raised:
        """There is nothing to resolve."""
        return self

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, Any]:
        """The column of the row that is updated, and one more."""
        column = connection.ops.quote_name(self.output_field.column)
        return f"-{column} - 2" if self.marked else f"{column} + 1", []


class RevisionField(models.IntegerField):
    """``cqrs_revision``: raised in the database by every UPDATE, never written from what Python remembers.

    It says so through ``Field.pre_save``, as ``auto_now`` does, so ``update_or_create`` counts it in by itself. In
    migrations it is a plain ``IntegerField``.
    """

    db_returning = False

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        """The value of an INSERT, or the expression of an UPDATE."""
        if add:
            if not isinstance(getattr(model_instance, self.attname), int):
                setattr(model_instance, self.attname, 0)
            value = getattr(model_instance, self.attname)
            return marked(value) if model_instance.__dict__.get(MARKED) else value
        following = model_instance.__dict__.get(NEXT_REVISION)
        is_marked = model_instance.__dict__.get(MARKED, False)
        if following is None:
            return self._raised[is_marked]
        return marked(following) if is_marked else following

    @cached_property
    def _raised(self) -> tuple[_Raised, _Raised]:
        """Unmarked and marked: made once, for they hold nothing of the row."""
        return _Raised(self), _Raised(self, marked=True)

    def deconstruct(self) -> tuple[str, str, Any, Any]:
        """As an ``IntegerField``, so that migrations do not depend on this package."""
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.IntegerField", args, kwargs


class UpdatedField(models.DateTimeField):
    """``cqrs_updated``: in migrations a plain ``DateTimeField``."""

    db_returning = False

    def get_db_prep_save(self, value: Any, connection: Any) -> Any:
        """The moment as PostgreSQL gets it: as text, which takes the driver a fraction of what a datetime does."""
        if connection.vendor == "postgresql" and isinstance(value, datetime) and value.tzinfo is not None:
            return value.isoformat()
        return super().get_db_prep_save(value, connection)

    def deconstruct(self) -> tuple[str, str, Any, Any]:
        """As a ``DateTimeField``, so that migrations do not depend on this package."""
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.DateTimeField", args, kwargs
