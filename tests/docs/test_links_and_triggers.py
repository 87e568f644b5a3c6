"""The pages on many-to-many fields and on triggers: what they show does what they say."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from django.db import connections, transaction

from django_cqrs_celery.models import OutboxMessage
from tests.conftest import use_pair
from tests.docs.blocks import blocks

DOCS = Path(__file__).parents[2] / "docs"

MASTER = """
import json
import sys
import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes", "django_cqrs_celery"], USE_TZ=True,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    CQRS={"queue": "docs", "master": {"dispatch": "relay"}}, CELERY_BROKER_URL="memory://",
)
django.setup()
names = {"__name__": "django_cqrs_celery.shown"}
first, *rest = json.load(sys.stdin)
exec(first, names)

from django.core.management import call_command

call_command("check", fail_level="ERROR", verbosity=0)
call_command("migrate", verbosity=0)
from django.db import connection

with connection.schema_editor() as editor:
    editor.create_model(names["Tag"])
    editor.create_model(names["Article"])
"""
SEND = """
from django_cqrs_celery.testing import Network

tag = names["Tag"].objects.create(name="new")
article = names["Article"].objects.create(title="a")
article.tags.add(tag)
network = Network()
network.pump()
network.messages.clear()
before = names["Article"].objects.get().cqrs_revision
exec(rest[0], names)
assert names["Article"].objects.get().cqrs_revision == before + 1
network.pump()
print(network.messages[0].body.decode())
"""
TAKE = """
from django_cqrs_celery import intake
from django_cqrs_celery.models import DeadLetter

names["Tag"].objects.create(id=1, name="new", cqrs_revision=0, cqrs_updated="2030-01-01T00:00:00Z")
answer = intake.take([rest[0]])
assert answer.failed == 0, DeadLetter.objects.values()
print([tag.pk for tag in names["Article"].objects.get().tags.all()])
"""


def run(code: str, *texts: str) -> str:
    """Run code that gets texts, in a process of its own: models join the registries."""
    import json

    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(texts), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_links_travel_from_the_master_shown_to_the_replica_shown() -> None:
    page = blocks(DOCS / "howto" / "many-to-many.rst")
    master, replica, raise_owners = (block.text for block in page if block.language == "python")
    message = run(MASTER + SEND, master, raise_owners)
    assert run(MASTER + TAKE, replica, message) == "[1]"


def test_the_trigger_that_is_shown_captures(transactional_db) -> None:
    use_pair("postgresql", "postgresql")
    (shown,) = (b.text for b in blocks(DOCS / "explanation" / "capture.rst") if b.language == "plpgsql")
    connection = connections["postgresql_master"]
    with transaction.atomic(using="postgresql_master"), connection.cursor() as cursor:
        cursor.execute(
            textwrap.dedent(
                """
                CREATE TABLE author (
                    id bigint PRIMARY KEY, name text, born date,
                    cqrs_revision integer DEFAULT 0, cqrs_updated timestamptz DEFAULT now()
                )
                """
            )
        )
        cursor.execute(shown)
        cursor.execute("INSERT INTO author (id, name) VALUES (7, 'a')")
        for name, revision in (("a", 0), ("b", 1), ("c", 2)):
            cursor.execute("UPDATE author SET name = %s", [name])
            cursor.execute("SELECT cqrs_revision FROM author")
            assert cursor.fetchone() == (revision,)
        promised = OutboxMessage.objects.using("postgresql_master").values_list("signal_type", "cqrs_id", "instance_pk")
        assert list(promised) == [("SAVE", "author", "7")] * 2
        transaction.set_rollback(True, using="postgresql_master")
