"""Writes that no Django process makes, captured all the same: clients of the database, and others at the same time."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time

import pytest
from django.db import connections, transaction

from tests import services
from tests.master_app.models import Stock
from tests.triggers.stock import NOW, TABLE, connection, heard, on_conflict, run

SAVE1 = ("SAVE", 1, 1)
#: Seconds within which a statement that has to wait for another is seen to wait.
DEADLINE = 30


# --- clients -------------------------------------------------------------------------------------------------------


def client(*statements, user=None):
    """Give statements to the database's own client, or as a ``user`` (name and password) of that database."""
    settings, vendor = connection().settings_dict, connection().vendor
    name, password = user or (settings["USER"], settings["PASSWORD"])
    host, port, database = settings["HOST"], str(settings["PORT"]), str(settings["NAME"])
    command = {
        "postgresql": ["psql", "-q", "-v", "ON_ERROR_STOP=1", "-h", host, "-p", port, "-U", name, database],
        "mysql": ["mariadb", "-h", host, "-P", port, "-u", name, database],
        "sqlite": ["sqlite3", "-bail", database],
    }[vendor]
    if shutil.which(command[0]) is None:
        assert vendor == "sqlite" or not services.IN_CI, f"{command[0]} is missing"
        pytest.skip(f"the client {command[0]} is not installed")
    environment = {**os.environ, "PGPASSWORD": str(password), "MYSQL_PWD": str(password)}
    script = "".join(f"{statement}\n" for statement in statements)
    subprocess.run(command, input=script, text=True, check=True, env=environment)


STATEMENTS = (
    f"INSERT INTO {TABLE} (id, name, cqrs_updated) VALUES (4, 'd', {NOW});",
    f"UPDATE {TABLE} SET amount = 9 WHERE id = 1;",
    f"UPDATE {TABLE} SET amount = 9 WHERE id = 1;",
    f"DELETE FROM {TABLE} WHERE id = 2;",
)
CHANGES = [("DELETE", 2, 1), SAVE1, ("SAVE", 4, 0)]


def test_client(stocks, net):
    client(*STATEMENTS)
    assert heard(net) == CHANGES


@pytest.fixture
def writer(stocks):
    """A user who may do nothing but write to the master's table; gives name and password."""
    name, password, quote = f"cqrs_w_{os.getpid()}", "w", connection().ops.quote_name
    rights = f"GRANT SELECT, INSERT, UPDATE, DELETE ON {quote(TABLE)} TO"
    hosts = ("%", "localhost", "127.0.0.1")
    if stocks == "postgresql":
        run(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
        run(f"{rights} {name}")
    else:
        for host in hosts:
            run(f"CREATE USER '{name}'@'{host}' IDENTIFIED BY '{password}'")
            run(f"{rights} '{name}'@'{host}'")
    yield name, password
    if stocks == "postgresql":
        run(f"DROP OWNED BY {name}")
        run(f"DROP ROLE {name}")
    else:
        run("DROP USER " + ", ".join(f"'{name}'@'{host}'" for host in hosts))


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"], indirect=True)  # SQLite knows no users
def test_client_with_rights_on_the_table_alone(writer, net):
    with pytest.raises(subprocess.CalledProcessError):
        client("DELETE FROM django_cqrs_celery_outboxmessage;", user=writer)
    client(*STATEMENTS, user=writer)
    assert heard(net) == CHANGES


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_copy_of_the_client(stocks, net):
    """Also under the key of a deleted row, above whose revision it goes on."""
    run(f"UPDATE {TABLE} SET amount = 9 WHERE id = 3")
    run(f"DELETE FROM {TABLE} WHERE id = 3")
    assert heard(net) == [("DELETE", 3, 2)]
    client(f"\\copy {TABLE} (id, name) FROM STDIN", "3\tagain", "4\tnew", "\\.")
    assert heard(net) == [("SAVE", 3, 3), ("SAVE", 4, 0)]


# --- triggers of the project's own on the same table ---------------------------------------------------------------


@pytest.fixture
def own_trigger(stocks):
    """A trigger that counts ``amount`` up where ``note`` changes, which does not travel."""
    if stocks == "postgresql":
        run(
            "CREATE FUNCTION tests_own() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN NEW.amount := NEW.amount + 1; RETURN NEW; END $$;"
            f"CREATE TRIGGER tests_own BEFORE UPDATE OF note ON {TABLE} FOR EACH ROW EXECUTE FUNCTION tests_own()"
        )
    elif stocks == "mariadb":
        (ours,) = (name for name in _triggers() if name.endswith("_update"))
        run(
            f"CREATE TRIGGER tests_own BEFORE UPDATE ON {TABLE} FOR EACH ROW PRECEDES {ours}"
            " SET NEW.amount = IF(NEW.note <=> OLD.note, NEW.amount, NEW.amount + 1)"
        )
    else:
        run(
            f"CREATE TRIGGER tests_own AFTER UPDATE OF note ON {TABLE} FOR EACH ROW"
            f" BEGIN UPDATE {TABLE} SET amount = amount + 1 WHERE id = NEW.id; END"
        )
    yield
    run("DROP FUNCTION tests_own CASCADE" if stocks == "postgresql" else "DROP TRIGGER tests_own")


def _triggers():
    with connection().cursor() as cursor:
        cursor.execute(
            "SELECT trigger_name FROM information_schema.triggers"
            " WHERE trigger_schema = DATABASE() AND event_object_table = %s", [TABLE],
        )  # fmt: skip
        return [name for (name,) in cursor.fetchall()]


def test_what_a_trigger_of_the_project_makes_of_the_row(own_trigger, net):
    run(f"UPDATE {TABLE} SET note = 'does not travel' WHERE id = 1")
    assert Stock.objects.get(pk=1).amount == 2
    assert heard(net) == [SAVE1]


# --- meetings ------------------------------------------------------------------------------------------------------


def _waits():
    """Whether some statement of this database waits for a row."""
    with connection().cursor() as cursor:
        if connection().vendor == "postgresql":
            cursor.execute("SELECT pg_stat_clear_snapshot()")
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        else:
            cursor.execute(
                "SELECT count(*) FROM information_schema.innodb_trx JOIN information_schema.processlist p"
                " ON p.id = trx_mysql_thread_id WHERE trx_state = 'LOCK WAIT' AND p.db = DATABASE()"
            )
        return cursor.fetchone()[0] > 0


def meet(first, second):
    """Run the first statement and leave its transaction open until the second one, in another connection, waits."""
    errors = []

    def other():
        try:
            run(second)
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=other, daemon=True)
    end = time.monotonic() + DEADLINE
    with transaction.atomic(using=connection().alias):
        run(first)
        thread.start()
        while not _waits():
            assert time.monotonic() < end and thread.is_alive(), errors or "it does not wait"
            time.sleep(0.2)  # InnoDB looks anew only when it has not been asked for a tenth of a second
    thread.join(DEADLINE)
    assert not thread.is_alive() and not errors, errors


INSERT = f"INSERT INTO {TABLE} (id, name, cqrs_updated) VALUES (1, 'again', {NOW})"


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"], indirect=True)  # SQLite has one writer at a time
@pytest.mark.usefixtures("stocks")
class TestMeetings:
    def test_an_insert_waits_for_a_delete_of_the_same_key(self, net):
        """Its look-up for a deleted row may come before that is committed; it goes on above it all the same."""
        run(f"UPDATE {TABLE} SET amount = 9 WHERE id = 1")
        assert heard(net) == [SAVE1]
        meet(f"DELETE FROM {TABLE} WHERE id = 1", INSERT)
        assert heard(net)[-1] == ("SAVE", 1, 3)

    def test_an_upsert_waits_for_a_delete_of_the_same_key(self, net):
        """It inserts, where it would have updated."""
        meet(f"DELETE FROM {TABLE} WHERE id = 1", f"{INSERT} {on_conflict('amount = 50')}")
        assert heard(net)[-1] == ("SAVE", 1, 2)

    def test_an_update_waits_for_another(self, net):
        """Each has a revision of its own."""
        update = f"UPDATE {TABLE} SET amount = amount + 10 WHERE id = 1"
        meet(update, update)
        assert Stock.objects.get(pk=1).amount == 21
        assert heard(net)[-1] == ("SAVE", 1, 2)

    def test_an_update_waits_for_a_delete(self, net):
        """It finds no row any more, and says nothing."""
        meet(f"DELETE FROM {TABLE} WHERE id = 1", f"UPDATE {TABLE} SET amount = 50 WHERE id = 1")
        assert heard(net) == [("DELETE", 1, 1)]
