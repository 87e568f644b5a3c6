"""Runs inside a project of either package: takes code as JSON lines, answers with JSON lines."""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any


def rows(model: Any, fields: list[str], **exclude: Any) -> list[str]:
    """All rows of a table in a fixed order, each as a text that tells values and types."""
    return sorted(map(repr, model.objects.exclude(**exclude).values_list(*fields)))


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    import django
    from django.apps import apps
    from django.db import close_old_connections

    django.setup()
    names: dict[str, Any] = {"rows": rows, **{model.__name__: model for model in apps.get_models()}}
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
