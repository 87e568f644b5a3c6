"""The pages that are about running services, run on the projects of the tutorial: commands, code and what they print.

Each test leaves the rows as the tutorial has them, a lamp and a table, and all workers running.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from tests.docs.blocks import ROOT, blocks, command_lines
from tests.docs.conftest import HOWTO
from tests.docs.running import Runner

pytestmark = pytest.mark.timeout(600)

WHAT_IS_THERE = "from listing.models import Product\nprint(list(Product.objects.values_list('name', 'price')))"
LAMP_AND_TABLE = "[('Lamp', Decimal('9.99')), ('Table', Decimal('150.00'))]"


def sql(runner: Runner, project: str, *statements: str) -> None:
    """Change a database behind everybody's back."""
    with closing(sqlite3.connect(runner.base / project / "db.sqlite3", timeout=30)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_the_master_can_leave_publishing_to_a_relay(tutorial: Runner) -> None:
    tutorial.visit(HOWTO / "relay.rst")


def test_workers_are_started_in_two_ways(tutorial: Runner) -> None:
    tutorial.visit(HOWTO / "worker.rst")


def test_beat_and_its_worker(tutorial: Runner) -> None:
    tutorial.visit(HOWTO / "beat.rst")


def test_healing(tutorial: Runner) -> None:
    tutorial.visit(HOWTO / "scheduled-healing.rst")


def test_the_runbook(tutorial: Runner) -> None:
    revision = "from listing.models import Product\nprint(Product.objects.get(name='Lamp').cqrs_revision)"
    change = {
        "signal_type": "SAVE", "cqrs_id": "product", "instance_pk": 1, "expires": "2026-01-31T12:00:00+00:00",
        "instance_data": {
            "id": 1, "name": "Lamp", "price": "9.99", "cqrs_revision": int(tutorial.type("shop_search", revision)),
            "cqrs_updated": "2026-01-31T12:00:00+00:00",
        },
    }  # fmt: skip
    expired = f"from django_cqrs_celery.tasks import cqrs_apply\nprint(cqrs_apply(changes=[{change!r}]))"
    assert "'failed': 1" in tutorial.type("shop_search", expired)
    tutorial.visit(HOWTO / "what-can-go-wrong.rst")
    tutorial.expect("shop_search", WHAT_IS_THERE, LAMP_AND_TABLE)


def test_a_master_that_was_restored(tutorial: Runner) -> None:
    """Its lamp is what it was before the tutorial changed it."""
    sql(tutorial, "shop", "UPDATE catalog_product SET price = 12.50, cqrs_revision = 0 WHERE name = 'Lamp'")
    tutorial.call("python manage.py cqrs_sync --mode digest", "shop")
    tutorial.visit(HOWTO / "restore.rst")
    tutorial.expect("shop_search", WHAT_IS_THERE, LAMP_AND_TABLE.replace("9.99", "12.50"))
    lamp = "from catalog.models import Product\nProduct.objects.filter(name='Lamp').update(price='9.99')"
    tutorial.type("shop", lamp)
    tutorial.expect("shop_search", WHAT_IS_THERE, LAMP_AND_TABLE)


def test_the_reference_of_commands(tutorial: Runner) -> None:
    lost = "DELETE FROM figures_price WHERE label = 'Table'"
    made_up = (
        "INSERT INTO figures_price (product_id, label, amount, cqrs_revision, cqrs_updated)"
        " SELECT 99, 'Ghost', 1, 0, cqrs_updated FROM figures_price LIMIT 1"
    )
    before = {
        "cqrs_diff_master": lambda: sql(tutorial, "shop_stats", lost),
        "cqrs_deleted_diff_replica": lambda: sql(tutorial, "shop_stats", made_up),
    }
    tutorial.visit(ROOT / "docs" / "reference" / "commands.rst", before)


def test_triggers_come_and_go(tutorial: Runner) -> None:
    tutorial.visit(HOWTO / "triggers.rst")


def test_a_new_field(tutorial: Runner) -> None:
    tutorial.run(HOWTO / "add-a-field.rst")


def test_the_doctor_reads_a_project_for_django_cqrs(tutorial: Runner) -> None:
    (line,) = [
        line for block in blocks(HOWTO / "moving-from-django-cqrs.rst") if block.language == "shell"
        for line in command_lines(block) if "--migrating" in line
    ]  # fmt: skip
    shop = ROOT / "tests" / "bridge" / "projects" / "shop"
    said = tutorial.call(f"{line.replace('../shop', str(shop))} || test $? = 1", "shop_search")
    assert "requirements.txt:" in said and "CommandError: 10 to change" in said
