"""``cqrs_triggers``, and the rights that it and ``migrate`` need."""

from __future__ import annotations

import contextlib
import os
import subprocess
import uuid

import pytest

from tests import services
from tests.docs.blocks import ROOT, blocks
from tests.integration.servers import run_sql
from tests.triggers import scratch
from tests.triggers.scratch import StepError
from tests.triggers.test_migrations import CAPTURED, MIXIN, change, hearing, quote


def command(*args):
    return "call", ["cqrs_triggers", *args], {}


def test_status_uninstall_and_install(project):
    """Each does what it says, and says what it did."""
    change(project, MIXIN)
    heard = project.run_all(
        command("status"),
        command("uninstall", "--cqrs-id", "product"), ("triggers", [], {}), ("leftovers", [], {}), hearing(project),
        command("install"), hearing(project), command("status", "--database", "default"),
    )  # fmt: skip
    assert heard[0] == heard[7] == "product in 'default': installed\n"
    assert heard[1:5] == ["product in 'default': removed\n", [], [], []]
    assert heard[5:7] == ["product in 'default': installed\n", CAPTURED]
    project.run("call", "cqrs_triggers", "uninstall")
    with pytest.raises(StepError, match="1 of 1 are not installed as they should be"):
        project.run("call", "cqrs_triggers", "status")


def test_a_table_that_is_not_migrated_yet(project):
    project.write("catalog", MIXIN)
    assert "no table" in project.run_all(("call", ["migrate"], {"verbosity": 0}), command("install"))[1]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["status", "--cqrs-id", "prodct"], r"No master model has the CQRS_ID prodct \(known: product\)"),
        (["sql", "--database", "other"], r"There is no database 'other' \(known: default\)"),
    ],
)
def test_wrong_options(tmp_path, args, says):
    with scratch.project("sqlite", tmp_path) as project:
        project.write("catalog", MIXIN)
        with pytest.raises(StepError, match=says):
            project.run("call", "cqrs_triggers", *args)


def test_nothing_to_do(tmp_path):
    with scratch.project("sqlite", tmp_path) as project:
        project.cqrs["master"]["capture"] = "orm"
        project.write("catalog", MIXIN)
        assert "captured by triggers" in project.run("call", "cqrs_triggers", "status")


def client(project, settings=None):
    """Command line of the database's own client, which reads statements from its input."""
    settings = settings or project.databases["default"]
    if project.engine == "postgresql":
        return ["psql", "-q", "-v", "ON_ERROR_STOP=1", "-h", settings["HOST"], "-p", settings["PORT"], "-U",
                settings["USER"], settings["NAME"]]  # fmt: skip
    return ["mariadb", "-h", settings["HOST"], "-P", settings["PORT"], "-u", settings["USER"], settings["NAME"]]


def test_sql_for_the_clients(project):
    """What ``sql`` prints can be given to the database's own client, also over triggers that are there."""
    change(project, MIXIN.replace('"product"', '''"it's a product"'''))
    settings = project.databases["default"]
    script, _ = project.run_all(command("sql"), command("uninstall"))
    if project.engine == "sqlite":
        project.run("script", script)
        project.run("script", script)
    else:
        for _ in range(2):
            subprocess.run(client(project), input=script, text=True, check=True, env=environment(settings))
    assert project.run_all(hearing(project, cqrs_id="it's a product"), ("states", [], {})) == [
        CAPTURED, {"it's a product": "installed"},
    ]  # fmt: skip


def environment(settings):
    password = str(settings["PASSWORD"])
    return {**os.environ, "PGPASSWORD": password, "MYSQL_PWD": password}


#: MariaDB takes a user's name and where he comes from together; an anonymous user of the machine's own comes first.
HOSTS = ("%", "localhost", "127.0.0.1")


# --- rights --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def user(engine):
    """A user of the database server who may do nothing yet; gives name and password."""
    name, password = f"cqrs_u_{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
    if engine == "postgresql":
        run_sql(engine, f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
    else:
        run_sql(engine, *(f"CREATE USER '{name}'@'{host}' IDENTIFIED BY '{password}'" for host in HOSTS))
    try:
        yield name, password
    finally:
        if engine == "postgresql":
            run_sql(engine, f"DROP ROLE {name}")
        else:
            run_sql(engine, *(f"DROP USER '{name}'@'{host}'" for host in HOSTS))


@pytest.fixture(params=["postgresql", "mariadb"])
def guarded(request, tmp_path):
    """A project whose database has one user that migrates and one that writes; gives it and the writer."""
    services.require(request.param)
    with (
        user(request.param) as migrating,
        user(request.param) as writer,
        scratch.project(request.param, tmp_path) as made,
    ):
        made.engine = request.param
        settings = made.databases["default"]
        made.administrator = dict(settings)
        name = settings["NAME"]
        if made.engine == "postgresql":
            grants = [f"ALTER DATABASE {name} OWNER TO {migrating[0]}"]
        else:
            grants = [_grant_of_the_page(name, migrating[0], host) for host in HOSTS]
        run_sql(made.engine, *grants)
        settings.update(USER=migrating[0], PASSWORD=migrating[1])
        yield made, writer


def _grant_of_the_page(database, user, host):
    """The statement that the page on triggers shows, for this database and user."""
    (shown,) = (block.text for block in blocks(ROOT / "docs" / "howto" / "triggers.rst") if block.language == "sql")
    assert "shop.*" in shown and "'migrator'@'%'" in shown
    return shown.replace("shop.*", f"{database}.*").replace("'migrator'@'%'", f"'{user}'@'{host}'").strip().rstrip(";")


def _as_administrator(project, statement):
    subprocess.run(
        client(project, project.administrator), input=statement, text=True, check=True,
        env=environment(project.administrator),
    )  # fmt: skip


def test_least_rights(guarded):
    """Who migrates needs what migrations need anyway, on MariaDB TRIGGER too; who writes needs nothing more."""
    project, writer = guarded
    _, heard = change(project, MIXIN, hearing(project))
    assert heard == [CAPTURED]

    table, settings = quote(project, "catalog_product"), project.databases["default"]
    schema = "" if project.engine == "postgresql" else f"{settings['NAME']}."
    users = [writer[0]] if project.engine == "postgresql" else [f"'{writer[0]}'@'{host}'" for host in HOSTS]
    for name in users:
        _as_administrator(project, f"GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}{table} TO {name};")
    outbox = quote(project, "django_cqrs_celery_outboxmessage")
    count = ("sql", [f"SELECT count(*) FROM {outbox} WHERE signal_type IN ('SAVE', 'DELETE')"], {})
    (before,) = project.run_all(count)[0]
    migrating = dict(settings)
    settings.update(USER=writer[0], PASSWORD=writer[1])
    statements = hearing(project)[1][2:]
    with pytest.raises(StepError, match="(?i)denied"):
        project.run("sql", f"SELECT count(*) FROM {outbox}")
    project.run("sql", *statements)
    settings.update(migrating)
    (after,) = project.run_all(count)[0]
    assert after[0] - before[0] == len(CAPTURED)


def test_rights_that_are_missing(guarded):
    """``install`` names what to do for someone who may not, and the rest of a service goes on."""
    project, writer = guarded
    change(project, MIXIN)
    settings = project.databases["default"]
    settings.update(USER=writer[0], PASSWORD=writer[1])
    users = [writer[0]] if project.engine == "postgresql" else [f"'{writer[0]}'@'{host}'" for host in HOSTS]
    table = quote(project, "catalog_product")
    schema = "" if project.engine == "postgresql" else f"{settings['NAME']}."
    for name in users:
        _as_administrator(project, f"GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}{table} TO {name};")
    with pytest.raises(StepError, match="cqrs_triggers sql"):
        project.run("call", "cqrs_triggers", "install")
    assert project.run("states") == {"product": "installed"}
