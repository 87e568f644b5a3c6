"""Triggers as they should be and as they are: what the command, the check and this package's migration do with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.db import connections, router, transaction
from django.db.migrations.loader import MigrationLoader
from django.db.models.signals import post_migrate

from django_cqrs_celery import triggers, triggers_rules
from django_cqrs_celery.constants import REVISION_FIELD
from django_cqrs_celery.registries import MasterRegistry
from django_cqrs_celery.triggers import CaptureTrigger


@dataclass(frozen=True, kw_only=True)
class TriggerSet:
    """The triggers that capture the changes of one model, in one database."""

    model: Any
    constraint: CaptureTrigger
    alias: str

    @property
    def cqrs_id(self) -> str:
        """The CQRS_ID of the model."""
        return self.constraint.cqrs_id

    def state(self) -> str:
        """``installed``, ``missing``, ``disabled`` or ``outdated``; ``no table`` before the model is migrated."""
        connection = connections[self.alias]
        with connection.cursor() as cursor:
            if self.model._meta.db_table not in connection.introspection.table_names(cursor):
                return "no table"
        return self.constraint.state(self.model, connection)

    def sql(self) -> list[str]:
        """Statements that turn back what the triggers would have turned back, and create them, or create them anew.

        Where triggers are taken away from under a process that knows of them, it goes on marking the revisions of the
        rows whose changes it promises itself (``fields.marked``).
        """
        connection = connections[self.alias]
        table = connection.ops.quote_name(triggers_rules.holder(self.model)._meta.db_table)
        revision = connection.ops.quote_name(self.model._meta.get_field(REVISION_FIELD).column)
        mended = f"UPDATE {table} SET {revision} = -{revision} - 1 WHERE {revision} < 0"
        return [mended, *self.constraint.install_sql(self.model, connection)]

    def script(self) -> str:
        """The same for the database's own client, all in one transaction where that is possible."""
        if connections[self.alias].vendor == "mysql":
            return "\n".join(["DELIMITER //", *(f"{statement} //" for statement in self.sql()), "DELIMITER ;"])
        return "\n".join(["BEGIN;", *(f"{statement};" for statement in self.sql()), "COMMIT;"])

    def install(self) -> None:
        """Create the triggers, or create them anew."""
        _execute(self.alias, self.sql())

    def uninstall(self) -> None:
        """Take the triggers away."""
        _execute(self.alias, self.constraint.uninstall_sql(self.model, connections[self.alias]))


def sets(alias: str | None = None) -> Iterator[TriggerSet]:
    """What should be in a database, or in every one: for each alias that a model may have its table in."""
    for _, model in sorted(MasterRegistry.models.items()):
        for constraint in triggers.declared_by(model):
            for name in connections if alias is None else [alias]:
                if constraint.belongs_to(connections[name]) and router.allow_migrate_model(name, model):
                    yield TriggerSet(model=model, constraint=constraint, alias=name)


def _execute(alias: str, statements: list[str]) -> None:
    triggers.forget_what_is_there()
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


# --- migration 0002 ------------------------------------------------------------------------------------------------


def install_waiting(state: Any, schema_editor: Any) -> None:
    """Install the triggers of all tables that the migrations so far have made."""
    for model, constraint in _declared(state, schema_editor):
        schema_editor.add_constraint(model, constraint)


def uninstall_all(state: Any, schema_editor: Any) -> None:
    """Take all triggers away, before the outbox that they write to goes."""
    for model, constraint in _declared(state, schema_editor):
        schema_editor.remove_constraint(model, constraint)


def _declared(state: Any, schema_editor: Any) -> Iterator[tuple[Any, CaptureTrigger]]:
    connection = schema_editor.connection
    with connection.cursor() as cursor:
        tables = set(connection.introspection.table_names(cursor))
    # The state has models of apps without migrations, but none of their foreign keys, which may be primary keys.
    without = MigrationLoader(None).unmigrated_apps
    for found in state.get_models():
        label = found._meta.app_label
        model = apps.get_model(label, found._meta.model_name) if label in without else found
        if model._meta.db_table in tables and router.allow_migrate_model(connection.alias, model):
            for constraint in triggers.declared_by(model):
                yield model, constraint


# --- flush ---------------------------------------------------------------------------------------------------------


def on_post_migrate(sender: Any, using: str, **kwargs: Any) -> None:
    """Empty the outbox once more after ``flush``, which Django tells of as of a ``migrate`` without a plan.

    Where it deletes rows table by table, triggers see it, and the outbox may have had its turn before the others.
    """
    connection = connections[using]
    if "plan" in kwargs or not triggers.is_supported(connection) or not any(sets(using)):
        return
    if triggers.has_outbox(connection):
        apps.get_model("django_cqrs_celery", "OutboxMessage")._base_manager.using(using)._raw_delete(using)


def start() -> None:
    """Listen to ``flush``."""
    config = apps.get_app_config("django_cqrs_celery")
    post_migrate.connect(on_post_migrate, sender=config, dispatch_uid="django_cqrs_celery.triggers_upkeep")
