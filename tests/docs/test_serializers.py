"""The how-to on serializers, run: a master's process that prints its messages, a replica's that applies them."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from tests import services
from tests.docs.blocks import ROOT
from tests.docs.running import Runner

if not services.IN_CI:
    pytest.importorskip("rest_framework")

PAGE = ROOT / "docs" / "howto" / "serializers.rst"

SETUP = """
import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes", "rest_framework", "django_cqrs_celery", APP], USE_TZ=True,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    CQRS={"queue": "docs", "master": {"dispatch": "relay"}}, DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()
from django.core.management import call_command

call_command("check", "--tag", "django_cqrs_celery", fail_level="ERROR")
call_command("migrate", run_syncdb=True, verbosity=0)
"""
MASTER = """
from django_cqrs_celery.testing import Network
from library.models import Author, Publisher
from library.views import add

add("Ada", ["Notes", "Letters"])
author = Author.objects.get()
network = Network()
network.pump()
author.publisher = Publisher.objects.create(name="Taylor")
author.save()
network.pump()
for message in network.messages:
    print(message.body.decode())
"""
REPLICA = """
import sys
from django_cqrs_celery import intake
from readers.models import Author

answer = intake.take([line.encode() for line in sys.stdin.read().splitlines()])
assert answer.failed == 0, answer
author = Author.objects.get()
print(author.name, author.publisher, author.cqrs_revision, *author.books.values_list("title", flat=True))
"""


def test_the_how_to_on_serializers(tmp_path):
    runner = Runner(tmp_path, {})
    runner.write_files(PAGE)
    for app in ("library", "readers"):
        (tmp_path / app / "__init__.py").touch()

    def run(app, code, given=""):
        code = textwrap.dedent(SETUP).replace("APP]", f"{app!r}]") + code
        done = subprocess.run(
            [sys.executable, "-c", code], input=given, capture_output=True, text=True, timeout=60, cwd=tmp_path,
            env=runner.environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    messages = run("library", MASTER)
    assert len(messages.splitlines()) == 2
    assert run("readers", REPLICA, messages).split() == ["Ada", "Taylor", "1", "Notes", "Letters"]
