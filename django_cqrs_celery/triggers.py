"""Capture by the database: the triggers of a master model, declared as one of its constraints.

As a constraint they come and go with migrations, as any other part of the schema does; ``triggers_schema`` sees to it
that they do. The SQL is that of ``triggers_<engine>``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from django.core.exceptions import FieldDoesNotExist
from django.db import connections, models

from django_cqrs_celery import (
    images,
    links,
    signals,
    tracker,
    triggers_links,
    triggers_parts,
    triggers_rules,
    triggers_spread,
)
from django_cqrs_celery.constants import REVISION_FIELD, UPDATED_FIELD
from django_cqrs_celery.fields import marked
from django_cqrs_celery.triggers_parts import Part, State
from django_cqrs_celery.triggers_plan import Column, Plan

OUTBOX_TABLE = "django_cqrs_celery_outboxmessage"

#: Engines that have triggers with ``'auto'``. Elsewhere they may need rights that few have, and see less.
BY_DEFAULT = ("postgresql",)


def is_supported(connection: Any) -> bool:
    """Whether there are triggers for this engine."""
    return connection.vendor in triggers_parts.ENGINES


class CaptureTrigger(models.BaseConstraint):
    """The triggers that capture the changes of one master model.

    ``cqrs_id``; ``fields``: names of the columns a change of which is replicated; ``tracked``: names of those whose
    previous values travel; ``links``: names of the many-to-many fields whose tables have triggers, too; ``engines``:
    the only ones that get them, or empty. All else is the model's own, so that it follows a renamed table.
    """

    def __init__(
        self,
        *,
        name: str,
        cqrs_id: str,
        fields: Sequence[str],
        tracked: Sequence[str] = (),
        links: Sequence[str] = (),
        engines: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.cqrs_id, self.fields, self.tracked, self.links = cqrs_id, tuple(fields), tuple(tracked), tuple(links)
        self.engines = tuple(engines)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CaptureTrigger) and self.deconstruct() == other.deconstruct()

    def __hash__(self) -> int:
        return hash((self.name, self.cqrs_id, self.fields, self.tracked, self.links))

    def __repr__(self) -> str:
        return f"<CaptureTrigger: {self.cqrs_id}>"

    def deconstruct(self) -> Any:
        """As migrations write it."""
        path, args, kwargs = super().deconstruct()
        kwargs.update(cqrs_id=self.cqrs_id, fields=self.fields)
        if self.tracked:
            kwargs["tracked"] = self.tracked
        if self.links:
            kwargs["links"] = self.links
        if self.engines:
            kwargs["engines"] = self.engines
        return path, args, kwargs

    def validate(self, *args: Any, **kwargs: Any) -> None:
        """Every row is welcome."""

    def check(self, model: Any, connection: Any) -> list[Any]:
        """The checks of this package say what there is to say."""
        return []

    def belongs_to(self, connection: Any) -> bool:
        """Whether this database is to have the triggers."""
        return is_supported(connection) and (not self.engines or connection.vendor in self.engines)

    def plan(self, model: Any, connection: Any, table: Any = None) -> Plan:
        """What the engine needs to know of the model's table, or of that of a model (``table``) which it inherits.

        A field that is not there yet, or no more, is left out.
        """
        table = table or model
        tracked = self._fields(model, self.tracked)
        return Plan(
            name=self.name,
            cqrs_id=self.cqrs_id,
            table=table._meta.db_table,
            key=Column.of(table._meta.pk),
            compared=tuple(self._compared(model, table)),
            tracked=tuple(Column.of(field) for field in tracked if field.model is table),
            inherited=tuple(field.name for field in tracked if field.model is not table),
            revision=model._meta.get_field(REVISION_FIELD).column,
            updated=model._meta.get_field(UPDATED_FIELD).column,
            outbox=OUTBOX_TABLE,
            quote=connection.ops.quote_name,
            native_uuid=connection.features.has_native_uuid_field,
        )

    def _compared(self, model: Any, table: Any) -> Iterator[str]:
        compared = [field for field in self._fields(model, self.fields) if field.model is table]
        if any(isinstance(field, models.GeneratedField) for field in compared):
            compared = table._meta.local_concrete_fields
        for field in compared:
            if field.name not in (REVISION_FIELD, UPDATED_FIELD) and not isinstance(field, models.GeneratedField):
                yield str(field.column)

    @staticmethod
    def _fields(model: Any, names: Sequence[str]) -> list[Any]:
        found = []
        for name in names:
            try:
                found.append(model._meta.get_field(name))
            except FieldDoesNotExist:
                continue  # while a migration is on its way; the next operation brings the triggers up to date
        return [field for field in found if field.column]

    def link_fields(self, model: Any) -> Iterator[tuple[Any, tuple[Any, Any]]]:
        """The many-to-many fields whose links are captured, with the ends of these; what is not there is left out."""
        for field in model._meta.local_many_to_many:
            ends = triggers_links.ends(field) if field.name in self.links else None
            if ends is not None:
                yield field, ends

    def link_plans(self, model: Any, connection: Any) -> Iterator[triggers_links.LinkPlan]:
        """What the engine needs to know of each table of links."""
        own, holder = self.plan(model, connection), triggers_rules.holder(model)
        for field, ends in self.link_fields(model):
            plan = triggers_links.plan_of(field, ends, own)
            if holder is not model:
                plan = replace(plan, master=holder._meta.db_table, key=Column.of(holder._meta.pk))
            yield plan

    def own_parts(self, model: Any, connection: Any) -> list[Part]:
        """The triggers that see the changes of a row, in each of its tables."""
        holder, parents = triggers_rules.holder(model), model._meta.get_parent_list()
        parts = [triggers_parts.own(connection.vendor, self.plan(model, connection))] if holder is model else []
        for number, table in enumerate([model, *parents] if parents else ()):
            plan = triggers_spread.plan_of(self.plan(model, connection, table), number, table, model, holder)
            parts += triggers_parts.of_spread(connection.vendor, plan)
        return parts

    def link_parts(self, model: Any, connection: Any) -> list[Part]:
        """The triggers that see the changes of its links."""
        return [triggers_parts.of_links(connection.vendor, plan) for plan in self.link_plans(model, connection)]

    def install_sql(self, model: Any, connection: Any, tables: Collection[str] | None = None) -> list[str]:
        """Statements that create the triggers, or create them anew; those of links on these tables, if given."""
        parts = self.own_parts(model, connection)
        parts += [part for part in self.link_parts(model, connection) if tables is None or part.plan.table in tables]
        return [statement for part in parts for statement in part.statements]

    def uninstall_sql(self, model: Any, connection: Any) -> list[str]:
        """Statements that take the triggers away."""
        parents = len(model._meta.get_parent_list())
        statements = triggers_parts.uninstall_own(connection.vendor, self.name, parents, connection.ops.quote_name)
        for name in self.links:
            statements += self.uninstall_links_sql(name, connection)
        return statements

    def uninstall_links_sql(self, field: str, connection: Any) -> list[str]:
        """Statements that take the triggers of one many-to-many field away, which may be gone."""
        own = triggers_links.name_of(self.name, field)
        return triggers_links.uninstall(connection.vendor, own, connection.ops.quote_name)

    def state(self, model: Any, connection: Any) -> State:
        """What the database has of these triggers: the worst of what it has on each table."""
        own, *others = (
            part.state(connection)
            for part in (*self.own_parts(model, connection), *self.link_parts(model, connection))
        )
        if own != "missing" and "missing" in others:
            return "outdated"
        return next((state for state in ("missing", "outdated", "disabled") if state in {own, *others}), "installed")

    def is_there(self, model: Any, connection: Any) -> bool:
        """Whether the database has all of these triggers, as the model declares them or as it did before."""
        return all(part.is_whole(connection) for part in self.own_parts(model, connection))

    def links_are_there(self, model: Any, connection: Any) -> bool:
        """Whether the database has all of the triggers of links."""
        parts = self.link_parts(model, connection)
        return bool(parts) and all(part.is_whole(connection) for part in parts)

    def names(self, field: Any) -> bool:
        """Whether the triggers name the column of this field of the model."""
        named = (*self.fields, *self.tracked, *self.links, REVISION_FIELD, UPDATED_FIELD)
        return field.primary_key or field.name in named

    def without(self, names: Collection[str]) -> CaptureTrigger:
        """The triggers for as long as these fields are not there, until the migration comes that says so."""
        return self._with(dict.fromkeys(names))

    def renamed(self, old: str, new: str) -> CaptureTrigger:
        """The same for a field that another model has renamed."""
        return self._with({old: new})

    def _with(self, names: Mapping[str, str | None]) -> CaptureTrigger:
        _, args, kwargs = self.deconstruct()
        for kind in ("fields", "tracked", "links"):
            found = (names.get(name, name) for name in kwargs.get(kind, ()))
            kwargs[kind] = tuple(name for name in found if name is not None)
        return CaptureTrigger(*args, **kwargs)

    # Triggers are no part of a table: ``triggers_schema`` creates them, changes them and takes them away.

    def constraint_sql(self, model: Any, schema_editor: Any) -> Any:
        """Nothing that would go into CREATE TABLE."""

    def create_sql(self, model: Any, schema_editor: Any) -> Any:
        """Nothing that would be one statement."""

    def remove_sql(self, model: Any, schema_editor: Any) -> Any:
        """Nothing that would be one statement."""


# --- which models --------------------------------------------------------------------------------------------------


def declare(model: Any) -> None:
    """Give a master model its triggers, if it is to have them."""
    if not getattr(model, "CQRS_PRODUCE", False):  # without the mixin it has no revision; a check says so
        return
    if not triggers_rules.wanted(model) or triggers_rules.why_not(model):
        # Its revisions are those of the models that share its tables, and so are captured the same way.
        for other in triggers_rules.family(model):
            _keep(other, [constraint for constraint in other._meta.constraints if constraint not in declared_by(other)])
        return
    trigger = CaptureTrigger(
        name=triggers_rules.name_of(model.CQRS_ID),
        cqrs_id=model.CQRS_ID,
        fields=[field.name for field in images.replicated_fields.__wrapped__(model)],
        tracked=[field.name for field in tracker.tracked_fields(model)],
        links=() if triggers_rules.why_not_links(model) else [f.name for f in links.replicated.__wrapped__(model)],
        engines=BY_DEFAULT if triggers_rules.asked_for(model) == "auto" else (),
    )
    others = [constraint for constraint in model._meta.constraints if not isinstance(constraint, CaptureTrigger)]
    _keep(model, [*others, trigger])


def _keep(model: Any, constraints: list[Any]) -> None:
    if constraints != model._meta.constraints:
        # Django compares what is in original_attrs with the migrations.
        model._meta.constraints = model._meta.original_attrs["constraints"] = constraints
        forget_what_is_there()


def declared_by(model: Any) -> list[CaptureTrigger]:
    """The triggers of a model, as it is now or as it was in a migration."""
    return [constraint for constraint in model._meta.constraints if isinstance(constraint, CaptureTrigger)]


#: Whether triggers capture, by model, alias and name of the database.
_capturing: dict[tuple[Any, str, str], bool] = {}
#: The same of links.
_capturing_links: dict[tuple[Any, str, str], bool] = {}


def captures(model: Any, using: str) -> bool:
    """Whether triggers capture the changes of this model on this database.

    Looks once in each process: where the triggers that the model declares are not there, because no migration has
    brought them yet, the ORM captures. A process that takes them for absent when they have come does no harm: two
    promises of one change are one.
    """
    concrete, connection = model._meta.concrete_model, connections[using]
    key = (concrete, using, str(connection.settings_dict["NAME"]))
    found = _capturing.get(key)
    if found is None:
        declared = declared_by(concrete)
        found = _capturing[key] = bool(declared) and all(
            constraint.belongs_to(connection) and constraint.is_there(concrete, connection)
            for constraint in declared
        ) and all(captures(other, using) for other in triggers_rules.ancestors(concrete))
    # Of a row in several tables the triggers say nothing but all: a setting may have brought a hook since.
    return found and not (concrete._meta.parents and triggers_rules.has_hooks(model))


def forget_what_is_there() -> None:
    """Look again, because triggers have come or gone."""
    _capturing.clear()
    _capturing_links.clear()


def captured_alone(model: Any, using: str) -> bool:
    """Whether triggers see to the changes of a model alone; else this process writes what its hooks say."""
    return captures(model, using) and not triggers_rules.has_hooks(model)


def captures_links(model: Any, using: str) -> bool:
    """Whether triggers capture the links of this model on this database; looks once, as ``captures`` does."""
    if not captures(model, using):
        return False
    concrete, connection = model._meta.concrete_model, connections[using]
    key = (concrete, using, str(connection.settings_dict["NAME"]))
    if key not in _capturing_links:
        declared = declared_by(concrete)
        _capturing_links[key] = all(constraint.links_are_there(concrete, connection) for constraint in declared)
    return _capturing_links[key]


def written(model: Any, using: str, revision: Any) -> Any:
    """A revision as Django writes it where it sees to the outbox row itself, or none is to be written."""
    # Where other models share the revision, they have to hear of it from the triggers.
    is_own = triggers_rules.holder(model) is model._meta.concrete_model
    return marked(revision) if is_own and captures(model, using) else revision


def has_outbox(connection: Any) -> bool:
    """Whether the table that triggers write to is there."""
    with connection.cursor() as cursor:
        return OUTBOX_TABLE in connection.introspection.table_names(cursor)


def _on_master_registered(sender: Any, **kwargs: Any) -> None:
    declare(sender)


signals.master_registered.connect(_on_master_registered, dispatch_uid="django_cqrs_celery.triggers")
