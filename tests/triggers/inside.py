"""Steps that run inside the process of a scratch project, see ``tests.triggers.scratch``."""

from __future__ import annotations

import io
from typing import Any

from django.core.management import call_command
from django.db import connection
from django.db.migrations.questioner import MigrationQuestioner


def call(*args: str, **options: Any) -> str:
    """Run a management command; returns what it printed."""
    out = io.StringIO()
    call_command(*args, stdout=out, stderr=out, **options)
    return out.getvalue()


def change(renames: bool = False) -> str:
    """What a developer does after a change of a model; returns the operations of the new migrations."""
    MigrationQuestioner.ask_rename = lambda *args: renames  # type: ignore[method-assign]
    MigrationQuestioner.ask_rename_model = lambda *args: renames  # type: ignore[method-assign]
    made = call("makemigrations", interactive=False)
    call("migrate", interactive=False, verbosity=0)
    call("makemigrations", "--check", "--dry-run", interactive=False)
    return made


def sql(*statements: str) -> list[list[Any]]:
    """Run statements past Django's ORM; returns the rows of the last."""
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return [list(row) for row in cursor.fetchall()] if cursor.description else []


def heard(cqrs_id: str, pk: str, *statements: str) -> list[str]:
    """Run statements that write one row; returns the signal types that the outbox got."""
    from django_cqrs_celery.models import OutboxMessage

    OutboxMessage.objects.all().delete()
    sql(*statements)
    rows = OutboxMessage.objects.order_by("pk").values_list("signal_type", "cqrs_id", "instance_pk")
    assert {row[1:] for row in rows} <= {(cqrs_id, pk)}, list(rows)
    return [row[0] for row in rows]


def told(cqrs_id: str, pk: str, *statements: str) -> list[str]:
    """Run statements that write a row of several tables; returns the signal types that the outbox got, each once."""
    from django_cqrs_celery.models import OutboxMessage

    OutboxMessage.objects.all().delete()
    sql(*statements)
    rows = OutboxMessage.objects.order_by("pk").filter(cqrs_id=cqrs_id, instance_pk=pk)
    return list(dict.fromkeys(rows.values_list("signal_type", flat=True)))


def triggers() -> list[str]:
    """Names of all triggers of the database."""
    queries = {
        "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger'",
        "postgresql": "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal",
        "mysql": "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = DATABASE()",
    }
    return sorted(row[0] for row in sql(queries[connection.vendor]))


def leftovers() -> list[str]:
    """Names of functions that triggers of PostgreSQL have left behind."""
    if connection.vendor != "postgresql":
        return []
    return [
        row[0]
        for row in sql(
            "SELECT proname FROM pg_proc JOIN pg_namespace n ON n.oid = pronamespace"
            " WHERE nspname NOT IN ('pg_catalog', 'information_schema')"
        )
    ]


def migrations(app: str) -> list[str]:
    """Names of the migrations of an app, in order."""
    from django.db.migrations.loader import MigrationLoader

    return sorted(name for label, name in MigrationLoader(connection).disk_migrations if label == app)


def drop_migrations(app: str, names: list[str]) -> None:
    """Remove migrations that a squashed one replaces, and what the squashed one says of them."""
    import importlib
    import re
    from pathlib import Path

    folder = Path(importlib.import_module(f"{app}.migrations").__file__ or "").parent
    for name in names:
        (folder / f"{name}.py").unlink()
    for path in folder.glob("*squashed*.py"):
        path.write_text(re.sub(r"    replaces = \[.*?\]\n", "", path.read_text(), flags=re.DOTALL))


def saved(label: str, **values: Any) -> list[str]:
    """Create, update and delete a row by the ORM; the signal types that are in the outbox then."""
    from django.apps import apps

    from django_cqrs_celery.models import OutboxMessage

    OutboxMessage.objects.all().delete()
    row = apps.get_model(label).objects.create(**values)
    row.save()
    row.delete()
    return list(OutboxMessage.objects.order_by("pk").values_list("signal_type", flat=True))


def outbox() -> list[list[Any]]:
    """What the outbox holds: signal type, CQRS_ID, primary key."""
    from django_cqrs_celery.models import OutboxMessage

    rows = OutboxMessage.objects.order_by("pk").values_list("signal_type", "cqrs_id", "instance_pk")
    return [list(row) for row in rows]


def loaded(fixture: list[dict[str, Any]]) -> list[list[Any]]:
    """Load a fixture; returns what the outbox got."""
    import json
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(fixture, file)
        file.flush()
        call("loaddata", file.name, verbosity=0)
    return outbox()


def in_test_database(calls: list[Any], keep: bool = True) -> list[Any]:
    """Call functions of this module in a test database, kept from run to run; removed afterwards if not ``keep``."""
    name = f"test_{connection.settings_dict['NAME']}" if connection.vendor != "sqlite" else None
    connection.settings_dict["TEST"]["NAME"] = name or f"{connection.settings_dict['NAME']}.test"
    before = connection.settings_dict["NAME"]
    connection.creation.create_test_db(verbosity=0, autoclobber=True, keepdb=True)
    try:
        return [globals()[function](*args, **kwargs) for function, args, kwargs in calls]
    finally:
        connection.creation.destroy_test_db(before, verbosity=0, keepdb=keep)


def states() -> dict[str, str]:
    """State of the triggers by CQRS_ID."""
    from django_cqrs_celery import triggers_upkeep

    return {found.cqrs_id: found.state() for found in triggers_upkeep.sets()}


def add_data_migration(app: str, model: str, values: dict[str, Any]) -> None:
    """Let the first migration of an app create a row at its end."""
    import importlib
    from pathlib import Path

    folder = Path(importlib.import_module(f"{app}.migrations").__file__ or "").parent
    (path,) = folder.glob("0001_*.py")
    body = path.read_text().rstrip().removesuffix("]")
    create = f"lambda apps, editor: apps.get_model({app!r}, {model!r}).objects.create(**{values!r})"
    path.write_text(f"{body}    migrations.RunPython({create}, atomic=True),\n    ]\n")


def take(changes: list[dict[str, Any]]) -> dict[str, int]:
    """Apply the changes of one message; returns how many dead letters there are, by status."""
    import json

    from django_cqrs_celery import intake
    from django_cqrs_celery.dataclasses import encode_message

    answer = intake.take([encode_message([json.dumps(change) for change in changes])])
    assert answer.again is None, answer.again
    return letters()


def letters() -> dict[str, int]:
    """Number of dead letters by status."""
    from collections import Counter

    from django_cqrs_celery.models import DeadLetter

    return dict(Counter(DeadLetter.objects.values_list("status", flat=True)))


def rows(label: str, *names: str) -> list[list[Any]]:
    """Rows of a model, in the order of their keys."""
    from django.apps import apps

    return [list(row) for row in apps.get_model(label).objects.order_by("pk").values_list(*names)]


def script(text: str) -> None:
    """Run a script of SQLite's client."""
    connection.ensure_connection()
    connection.connection.executescript(text)
