"""What a backup brings back captures as before."""

from __future__ import annotations

import sqlite3
import subprocess
from pathlib import Path

from tests.triggers.test_migrations import CAPTURED, MIXIN, change, hearing
from tests.triggers.test_triggers_command import client, environment


def _backed_up_and_restored(project, folder):
    """Let the database's own tools save all there is, and put it back over what is there."""
    settings = project.databases["default"]
    if project.engine == "sqlite":
        path = Path(settings["NAME"])
        with sqlite3.connect(path) as before:
            script = "\n".join(before.iterdump())
        path.unlink()
        with sqlite3.connect(path) as after:
            after.executescript(script)
        return
    place, run = folder / "backup", {"check": True, "env": environment(settings)}
    if project.engine == "postgresql":
        address = ["-h", settings["HOST"], "-p", settings["PORT"], "-U", settings["USER"]]
        subprocess.run(["pg_dump", *address, "-Fc", "-f", str(place), settings["NAME"]], **run)
        restore = ["pg_restore", *address, "--clean", "--exit-on-error", "-d", settings["NAME"], str(place)]
        subprocess.run(restore, **run)
        return
    with open(place, "wb") as file:
        subprocess.run(["mariadb-dump", *client(project)[1:]], stdout=file, **run)
    with open(place, "rb") as file:
        subprocess.run(client(project), stdin=file, **run)


def test_a_backup_that_is_restored(project, tmp_path):
    change(project, MIXIN + "        data = models.JSONField(null=True)\n", hearing(project))
    _backed_up_and_restored(project, tmp_path)
    assert project.run_all(("states", [], {}), hearing(project)) == [{"product": "installed"}, CAPTURED]
