"""Runs inside one of the projects for as long as a test wants: takes code as JSON lines, answers with JSON lines."""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any


def rows(model: Any, fields: list[str]) -> list[str]:
    """All rows of a table in a fixed order, each as a text that tells values and types."""
    found = model.objects.values_list(*fields)
    return sorted(repr([bytes(value) if isinstance(value, memoryview) else value for value in row]) for row in found)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    import django
    from django.apps import apps
    from django.core.management import call_command
    from django.db import close_old_connections, connection, transaction

    django.setup()
    from django_cqrs_celery.models import DeadLetter, OutboxMessage, Tombstone

    names: dict[str, Any] = {
        "transaction": transaction, "connection": connection, "call_command": call_command, "rows": rows,
        "DeadLetter": DeadLetter, "OutboxMessage": OutboxMessage, "Tombstone": Tombstone,
        **{model.__name__: model for model in apps.get_models()},
    }  # fmt: skip
    for line in sys.stdin:
        command = json.loads(line)
        scope = {**names, **command["arguments"], "result": None}
        try:
            close_old_connections()
            exec(compile(command["code"], "<test>", "exec"), scope)  # noqa: S102
            answer = {"result": scope["result"]}
        except Exception:
            answer = {"error": traceback.format_exc()}
        close_old_connections()
        answers.write(json.dumps(answer, default=str) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
