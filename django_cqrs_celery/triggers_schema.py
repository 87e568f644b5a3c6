"""How triggers come and go with migrations.

A master model declares its triggers as a constraint, so that ``makemigrations`` writes down when they come, change and
go. What a constraint can do by itself ends there: Django creates constraints one statement each, inside the table, and
knows nothing of triggers that a renamed table or column leaves behind. So the schema editor of each connection is given
these few lines; with them every operation leaves the triggers that its model declares, at once, so that a ``RunPython``
of the same migration is captured too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from django.db.backends.signals import connection_created

from django_cqrs_celery import links, triggers, triggers_parts
from django_cqrs_celery.constants import REVISION_FIELD, UPDATED_FIELD
from django_cqrs_celery.registries import MasterRegistry
from django_cqrs_celery.triggers import CaptureTrigger
from django_cqrs_celery.triggers_plan import MARK


class _Editor:
    """Mixed into the schema editor of every engine; where there are no triggers for it, it only leaves them out."""

    connection: Any
    #: While SQLite rebuilds a table.
    _is_rebuilding = False
    #: While a table of links becomes that of another field.
    _is_relinking = False

    def __enter__(self) -> Any:
        self._waiting: list[tuple[Any, CaptureTrigger]] = []
        #: Triggers of links that ``sqlmigrate`` is to print when all tables have their names.
        self._late: dict[str, list[str]] = {}
        return super().__enter__()  # type: ignore[misc]

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        if exc_type is None and self._waiting and self._has_outbox():
            for model, constraint in self._waiting:
                self._install(model, constraint)
        if exc_type is None:
            for statement in [statement for statements in self._late.values() for statement in statements]:
                self.execute(statement, None)
            if not self.collect_sql:  # type: ignore[attr-defined]
                self._bring_strangers_back()
        super().__exit__(exc_type, exc_value, traceback)  # type: ignore[misc]

    def execute(self, sql: Any, params: Any = ()) -> None:
        """Execute a statement; the constraint of triggers gives none."""
        if sql is not None:
            super().execute(sql, params)  # type: ignore[misc]

    # -- constraints -------------------------------------------------------------------------------------------------

    def add_constraint(self, model: Any, constraint: Any) -> None:
        """Add a constraint, or install triggers."""
        if isinstance(constraint, CaptureTrigger):
            self._install(model, constraint)
        else:
            super().add_constraint(model, constraint)  # type: ignore[misc]

    def remove_constraint(self, model: Any, constraint: Any) -> None:
        """Remove a constraint, or triggers."""
        if isinstance(constraint, CaptureTrigger):
            self._uninstall(model, constraint)
        else:
            super().remove_constraint(model, constraint)  # type: ignore[misc]

    # -- tables ------------------------------------------------------------------------------------------------------

    def create_model(self, model: Any) -> None:
        """Create a table and its triggers."""
        super().create_model(model)  # type: ignore[misc]
        if not self._is_rebuilding:
            for owner, constraint in self._of_table(model):
                self._install(owner, constraint)

    def delete_model(self, model: Any, *args: Any, **kwargs: Any) -> None:
        """Delete a table; PostgreSQL would keep the functions of its triggers."""
        if not self._is_rebuilding:
            for constraint in triggers.declared_by(model):
                self._uninstall(model, constraint)
            for _, constraint, field in () if self._is_relinking else _linked_by(model):
                self._uninstall_links(constraint, field)
        super().delete_model(model, *args, **kwargs)  # type: ignore[misc]

    def alter_db_table(self, model: Any, old_db_table: str, new_db_table: str) -> None:
        """Rename a table; triggers speak of their table by its name."""
        renamed = not self._is_rebuilding and old_db_table != new_db_table
        for owner, constraint in (*_declared(model), *_inheriting(model)) if renamed else ():
            self._uninstall(owner, constraint)
        self._take_strangers_away(model, old_db_table)
        super().alter_db_table(model, old_db_table, new_db_table)  # type: ignore[misc]
        for owner, constraint in () if self._is_rebuilding else self._of_table(model):
            self._install(owner, constraint)

    # -- columns -----------------------------------------------------------------------------------------------------

    def add_field(self, model: Any, field: Any) -> None:
        """Add a column, which triggers may have been waiting for: a foreign key of two models that need each other."""
        super().add_field(model, field)  # type: ignore[misc]
        for owner, constraint in self._of_table(field.model):
            if owner is not field.model or constraint.names(field):
                self._install(owner, constraint)

    def remove_field(self, model: Any, field: Any) -> None:
        """Drop a column; a model that inherits it may learn of that in a later migration only."""
        concerned = [(owner, constraint) for owner, constraint in _inheriting(model) if constraint.names(field)]
        for owner, constraint in concerned:
            self._uninstall(owner, constraint)
        self._take_strangers_away(model)
        super().remove_field(model, field)  # type: ignore[misc]
        for owner, constraint in concerned:
            self._install(owner, constraint.without({field.name}))

    def alter_field(self, model: Any, old_field: Any, new_field: Any, strict: bool = False) -> None:
        """Alter a column; PostgreSQL refuses while a trigger names it, and afterwards its text may be another."""
        altered = self._field_should_be_altered(old_field, new_field)  # type: ignore[attr-defined]
        concerned = list(_concerned(old_field)) if altered else []
        # Where the field has another name, its heirs may have got it already.
        heirs = [found for found in _inheriting(old_field.model) if altered and found[1].names(old_field)]
        concerned += [found for found in heirs if found not in concerned]
        for owner, constraint in concerned:
            self._uninstall(owner, constraint)
        if altered:
            self._take_strangers_away(model)
        super().alter_field(model, old_field, new_field, strict)  # type: ignore[misc]
        for owner, constraint in concerned:
            now = new_field.model if owner is old_field.model else _bearer(constraint, new_field.model._meta.apps)
            renamed = old_field.name != new_field.name and owner is not old_field.model
            self._install(now or owner, constraint.renamed(old_field.name, new_field.name) if renamed else constraint)

    def _alter_many_to_many(self, model: Any, old_field: Any, new_field: Any, strict: bool) -> None:
        """Rename a table of links and its columns; SQLite copies the links, which is no change of any."""
        for constraint in triggers.declared_by(old_field.model):
            if constraint.names(old_field):
                self._uninstall_links(constraint, old_field)
        self._is_relinking = True
        try:
            super()._alter_many_to_many(model, old_field, new_field, strict)  # type: ignore[misc]
        finally:
            self._is_relinking = False
        for constraint in triggers.declared_by(new_field.model):
            if constraint.names(new_field):
                self._install(new_field.model, constraint)

    # -- triggers ----------------------------------------------------------------------------------------------------

    def _of_table(self, model: Any) -> Iterator[tuple[Any, CaptureTrigger]]:
        """Triggers of a table: of a master model, and of those whose links it holds."""
        yield from _declared(model)
        yield from _inheriting(model)
        for owner, constraint, _ in () if self._is_relinking else _linked_by(model):
            yield owner, constraint

    def _install(self, model: Any, constraint: CaptureTrigger) -> None:
        if not constraint.belongs_to(self.connection):
            return
        triggers.forget_what_is_there()
        if not self._has_outbox():
            # A write to a table whose triggers find no outbox would fail, and SQLite would alter no table at all.
            # A migration of this package installs what has been waiting for its tables.
            self._waiting.append((model, constraint))
            return
        tables: set[str] | None = None
        if self.collect_sql:  # type: ignore[attr-defined]
            statements = constraint.install_sql(model, self.connection, ())
            self._late[constraint.name] = constraint.install_sql(model, self.connection)[len(statements) :]
        else:
            with self.connection.cursor() as cursor:
                tables = set(self.connection.introspection.table_names(cursor))
            # That of a model of links may come later, or be renamed next; then this is called once more.
            own = {table._meta.db_table for table in (model, *model._meta.get_parent_list())}
            statements = constraint.install_sql(model, self.connection, tables) if own <= tables else []
            if len(own) > 1 and not own <= tables:
                # On the way back a model may still refer to a table under its name of later.
                _strangers.setdefault(self.connection.alias, set()).add(constraint.name)
        for statement in statements:
            self.execute(statement, None)

    def _uninstall_links(self, constraint: CaptureTrigger, field: Any) -> None:
        self._late.pop(constraint.name, None)
        triggers.forget_what_is_there()
        if triggers.is_supported(self.connection):
            for statement in constraint.uninstall_links_sql(field.name, self.connection):
                self.execute(statement, None)

    def _uninstall(self, model: Any, constraint: CaptureTrigger) -> None:
        self._waiting = [(m, waiting) for m, waiting in self._waiting if waiting.name != constraint.name]
        triggers.forget_what_is_there()
        self._late.pop(constraint.name, None)
        if triggers.is_supported(self.connection):
            for statement in constraint.uninstall_sql(model, self.connection):
                self.execute(statement, None)

    def _take_strangers_away(self, model: Any, table: str | None = None) -> None:
        """Take away triggers of models that inherit a table, of which the state of this migration does not know.

        On the way back Django leaves out models of other apps which come after this migration.
        """
        if self._is_rebuilding or self.collect_sql or not triggers.is_supported(self.connection):  # type: ignore[attr-defined]
            return
        known = {found.name for other in model._meta.apps.get_models() for found in triggers.declared_by(other)}
        quote, vendor = self.connection.ops.quote_name, self.connection.vendor
        found = triggers_parts.sets_of_table(self.connection, table or model._meta.db_table, known)
        for name, strange in found.items():
            for statement in triggers_parts.take_away(vendor, strange, quote):
                self.execute(statement, None)
            _strangers.setdefault(self.connection.alias, set()).add(name)

    def _bring_strangers_back(self) -> None:
        """As the models are now, as far as the tables are so already; else at the end of another migration."""
        taken = _strangers.get(self.connection.alias, set())
        for model, constraint in _of_all_masters() if taken else ():
            names = {name for name in taken if constraint.name.startswith(name)}
            missing = _missing(model, self.connection) if names else None
            if missing is not None:
                self._install(model, constraint.without(missing))
                taken -= names

    def _has_outbox(self: Any) -> bool:
        return self.collect_sql or triggers.has_outbox(self.connection)


class _SQLiteEditor(_Editor):
    """SQLite drops a table to alter it, and its triggers with it; it refuses where one names a table that is gone."""

    def _remake_table(self: Any, model: Any, *args: Any, **kwargs: Any) -> None:
        with self._triggers_aside():
            super()._remake_table(model, *args, **kwargs)  # type: ignore[misc]

    @contextmanager
    def _triggers_aside(self: Any) -> Iterator[None]:
        if self._is_rebuilding or self.collect_sql:
            yield
            return
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND instr(sql, %s)", [MARK])
            found = dict(cursor.fetchall())
        for name in found:
            self.execute(f"DROP TRIGGER {self.quote_name(name)}", None)
        self._is_rebuilding = True
        try:
            yield
        finally:
            self._is_rebuilding = False
        for sql in found.values():
            self.execute(sql, None)


#: Names of the sets of triggers that are to come back, by alias.
_strangers: dict[str, set[str]] = {}


def _of_all_masters() -> Iterator[tuple[Any, CaptureTrigger]]:
    for model in MasterRegistry.models.values():
        yield from _declared(model)


def _missing(model: Any, connection: Any) -> set[str] | None:
    """Names of the fields of which there is no column yet, or no more; None if more than that is not there."""
    missing: set[str] = set()
    with connection.cursor() as cursor:
        tables = connection.introspection.table_names(cursor)
        for table in [model, *model._meta.get_parent_list()]:
            if table._meta.db_table not in tables:
                return None
            found = connection.introspection.get_table_description(cursor, table._meta.db_table)
            columns = {column.name for column in found}
            missing |= {field.name for field in table._meta.local_concrete_fields if field.column not in columns}
    return None if {REVISION_FIELD, UPDATED_FIELD, model._meta.pk.name} & missing else missing


def _concerned(field: Any) -> Iterator[tuple[Any, CaptureTrigger]]:
    """Triggers that name a column, or a foreign key that leads to it and is altered with it."""
    for model in field.model._meta.apps.get_models():
        for constraint in triggers.declared_by(model):
            own = [f for f in model._meta.concrete_fields if constraint.names(f)]
            ends = [end for _, both in constraint.link_fields(model) for end in both]
            if any(_leads_to(f, field) for f in [*own, *ends]):
                yield model, constraint


def _declared(model: Any) -> Iterator[tuple[Any, CaptureTrigger]]:
    for constraint in triggers.declared_by(model):
        yield model, constraint


def _inheriting(parent: Any) -> Iterator[tuple[Any, CaptureTrigger]]:
    """Master models that inherit a table, with their triggers."""
    for model in parent._meta.apps.get_models():
        if any(found._meta.label_lower == parent._meta.label_lower for found in model._meta.get_parent_list()):
            yield from _declared(model)


def _linked_by(through: Any) -> Iterator[tuple[Any, CaptureTrigger, Any]]:
    """Master models whose links a model holds, with their triggers and the many-to-many field."""
    for model in through._meta.apps.get_models():
        for constraint in triggers.declared_by(model):
            for field, _ in constraint.link_fields(model):
                if links.through(field)._meta.label_lower == through._meta.label_lower:
                    yield model, constraint, field


def _leads_to(own: Any, field: Any) -> bool:
    # By their labels: models may still refer to classes that others have replaced.
    while not (own.model._meta.label_lower == field.model._meta.label_lower and own.name == field.name):
        if own.remote_field is None:
            return False
        own = own.target_field
    return True


def _bearer(constraint: CaptureTrigger, apps: Any) -> Any:
    """The model that declares the triggers now, whatever its name is; None where no model does."""
    return next((m for m in apps.get_models() if constraint in triggers.declared_by(m)), None)


@cache
def _editor_class(base: type, vendor: str) -> type:
    mixin = _SQLiteEditor if vendor == "sqlite" else _Editor
    return type(base.__name__, (mixin, base), {"__module__": base.__module__})


def _on_connection_created(sender: Any, connection: Any, **kwargs: Any) -> None:
    base = connection.SchemaEditorClass
    if not issubclass(base, _Editor):
        connection.SchemaEditorClass = _editor_class(base, connection.vendor)


def start() -> None:
    """Look after the schema editors of all connections from now on."""
    connection_created.connect(_on_connection_created, dispatch_uid="django_cqrs_celery.triggers_schema")
