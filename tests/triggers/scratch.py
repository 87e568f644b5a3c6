"""A scratch project whose models change from step to step, migrated by the real commands on a real database.

``Project`` is the test's side. The project itself lives in a process of its own that has imported Django and Celery
once and forks for each step, so that every step loads the models as they are written then, in a fraction of a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
#: Seconds that a step may take; far more than it needs.
DEADLINE = 120

HEADER = """
from django.db import models
from django_cqrs_celery.mixins import MasterMixin, RawMasterMixin
"""


class StepError(AssertionError):
    """A step raised inside the project."""


class Project:
    """Apps ``catalog`` and ``zoo`` (one sorts before this package's, one after it) beside ``django_cqrs_celery``."""

    APPS = ("catalog", "zoo")

    def __init__(self, folder: Path, databases: dict[str, Any], cqrs: dict[str, Any] | None = None):
        self.folder = folder
        self.databases = databases
        self.cqrs = cqrs or {"queue": "scratch", "master": {"dispatch": "relay", "capture": "trigger"}}
        self.migrated = True
        for app in self.APPS:
            (folder / app / "migrations").mkdir(parents=True)
            (folder / app / "__init__.py").touch()
            (folder / app / "migrations" / "__init__.py").touch()
            self.write(app, "")
        self._log = open(folder / "project.log", "ab")  # noqa: SIM115
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.triggers.scratch"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._log, text=True,
        )  # fmt: skip

    def write(self, app: str, models: str) -> None:
        """Let the models of an app be these from the next step on."""
        (self.folder / app / "models.py").write_text(HEADER + textwrap.dedent(models))

    def run(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a function of ``tests.triggers.inside`` in the project; returns what it returns, as JSON carries it."""
        return self.run_all((name, args, kwargs))[0]

    def run_all(self, *calls: tuple[str, Sequence[Any], dict[str, Any]]) -> list[Any]:
        """Call functions one after the other in one step, which is faster."""
        step = {
            "calls": calls, "folder": str(self.folder), "cqrs": self.cqrs, "databases": self.databases,
            "apps": self.APPS, "migrated": self.migrated,
        }  # fmt: skip
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(step) + "\n")
        self._server.stdin.flush()
        if not select.select([self._server.stdout], [], [], DEADLINE)[0]:
            raise StepError(f"{calls} took more than {DEADLINE} seconds")
        answer = json.loads(self._server.stdout.readline() or '{"error": "the project has ended"}')
        if "error" in answer:
            raise StepError(answer["error"])
        return answer["value"]

    def close(self) -> None:
        """End the process of the project."""
        with contextlib.suppress(BrokenPipeError):
            assert self._server.stdin is not None
            self._server.stdin.close()
        try:
            self._server.wait(30)
        finally:
            self._server.kill()
            self._server.wait()
            assert self._server.stdout is not None
            self._server.stdout.close()
            self._log.close()


@contextlib.contextmanager
def project(engine: str, folder: Path, **options: Any) -> Iterator[Project]:
    """A project on an empty database of its own."""
    from tests import services
    from tests.integration import servers

    with servers.database(engine, folder) as url:
        settings = services.database(engine, url.rpartition("/")[2])
        if engine == "sqlite":
            settings["NAME"] = url.removeprefix("sqlite://")
        settings.pop("TEST", None)
        made = Project(folder, {"default": settings}, **options)
        try:
            yield made
        finally:
            made.close()


# --- the process of the project ------------------------------------------------------------------------------------


def _step(step: dict[str, Any]) -> Any:
    import django
    import pymysql
    from django.conf import settings

    pymysql.install_as_MySQLdb()
    sys.path.insert(0, step["folder"])
    settings.configure(
        SECRET_KEY="scratch",
        INSTALLED_APPS=[step["apps"][0], "django_cqrs_celery", *step["apps"][1:]],
        DATABASES=step["databases"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
        CQRS=step["cqrs"],
        MIGRATION_MODULES={} if step["migrated"] else dict.fromkeys(step["apps"]),
    )
    django.setup()
    from tests.triggers import inside

    return [getattr(inside, name)(*args, **kwargs) for name, args, kwargs in step["calls"]]


def _serve() -> None:
    import celery.signals  # noqa: F401
    import django.core.management  # noqa: F401
    import model_utils  # noqa: F401
    import psycopg  # noqa: F401
    import pymysql  # noqa: F401

    for line in sys.stdin:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            try:
                answer = {"value": _step(json.loads(line))}
            except BaseException:
                answer = {"error": traceback.format_exc()}
            sys.stdout.write(json.dumps(answer, default=str) + "\n")
            sys.stdout.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            sys.stdout.write(json.dumps({"error": f"the step died with status {status}"}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    _serve()
