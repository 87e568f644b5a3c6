"""Every snippet of the pages is run by one of the tests of this folder; here those that no page's own test runs."""

from __future__ import annotations

import os
import re
import shlex

import click
import pytest
from celery.bin.celery import celery
from django.core.management import get_commands, load_command_class

from django_cqrs_celery import registries
from django_cqrs_celery.mixins import RawReplicaMixin
from django_cqrs_celery.models import DeadLetter, Tombstone
from django_cqrs_celery.tasks import cqrs_apply
from tests.docs.blocks import Block
from tests.docs.test_docs import BLOCKS, command_lines, task_names
from tests.master_app import models as master

#: Tasks of the reader's own on the pages.
OTHERS = {"news.tasks.send"}

#: Pages whose blocks have tests of their own, which run them all.
RUN_AS_A_WHOLE = {
    "README.rst", "add-a-replica.rst", "first-fill.rst", "schema-contract.rst", "testing.rst", "models.rst",
    "serializers.rst", "moving-from-django-cqrs.rst", "many-to-many.rst", "capture.rst",
}  # fmt: skip
REST = [block for block in BLOCKS if block.path.name not in RUN_AS_A_WHOLE]
SCHEDULES = [block for block in REST if block.language == "python" and "\nCELERY_BEAT_SCHEDULE" in block.text]
EMPTYING = [block for block in REST if block.language == "python" and "ReplicaRegistry.models.values()" in block.text]


@pytest.mark.parametrize("block", SCHEDULES, ids=str)
def test_schedules_that_are_shown_start_tasks_that_exist(block: Block) -> None:
    names: dict = {"os": os}
    exec(compile(block.text, str(block), "exec"), names)
    found = {entry["task"] for entry in names["CELERY_BEAT_SCHEDULE"].values()}
    assert found - OTHERS <= task_names()
    for entry in names["CELERY_BEAT_SCHEDULE"].values():
        assert set(entry) <= {"task", "schedule", "args", "kwargs", "options"}


@pytest.mark.parametrize("block", EMPTYING, ids=str)
def test_emptying_a_replica_empties_it(net, monkeypatch, block: Block) -> None:
    # Not all models of the suite have a table on every engine.
    ours = {cqrs_id: m for cqrs_id, m in registries.ReplicaRegistry.models.items() if "replica_app" in m.__module__}
    monkeypatch.setattr(registries.ReplicaRegistry, "models", {**ours, "parcel": RawReplicaMixin})
    author = master.Author.objects.create(name="a")
    master.Book.objects.create(title="t", author=author)
    author_gone = master.Author.objects.create(name="b")
    net.run()
    author_gone.delete()
    net.run()
    cqrs_apply(changes=[{"nonsense": True}])
    assert DeadLetter.objects.exists() and Tombstone.objects.exists()
    exec(compile(block.text, str(block), "exec"), {})
    assert not any(model._base_manager.exists() for model in [*ours.values(), DeadLetter, Tombstone])


CELERY_LINES = sorted({
    line.strip()
    for block in BLOCKS if block.language == "shell"
    for line in block.text.splitlines() if line.startswith("celery ")
})  # fmt: skip


@pytest.mark.parametrize("line", CELERY_LINES)
def test_celery_commands_that_are_shown_are_accepted(line: str) -> None:
    program, option, _, name, *arguments = shlex.split(line)
    assert (program, option) == ("celery", "-A")
    command = celery.commands[name]
    command.make_parser(click.Context(command, parent=click.Context(celery))).parse_args(arguments)


DJANGO_LINES = sorted({
    line.strip().removeprefix("python manage.py ")
    for block in BLOCKS if block.language == "shell"
    for line in block.text.splitlines()
    if line.startswith("python manage.py ") and line.split()[2] in get_commands()
    and get_commands()[line.split()[2]] == "django.core"
})  # fmt: skip


@pytest.mark.parametrize("line", DJANGO_LINES)
def test_commands_of_django_that_are_shown_are_accepted(line: str) -> None:
    name, *arguments = shlex.split(line)
    parser = load_command_class("django.core", name).create_parser("manage.py", name)
    parser.called_from_command_line = False
    parser.parse_args(arguments)


def _is_run(block: Block) -> bool:
    if block in (*SCHEDULES, *EMPTYING) or block.language in ("json", "text"):
        return True
    if block.language == "python":
        return re.match(r"CQRS = ", block.text) is not None
    accepted = {" ".join(param.values[0]) for param in command_lines()}
    lines = [line.strip() for line in block.text.splitlines() if line.strip() and not line.startswith("#")]
    return all(
        line in CELERY_LINES
        or line.removeprefix("python manage.py ") in DJANGO_LINES
        or " ".join(shlex.split(line.removeprefix("python manage.py "))) in accepted
        for line in lines
    )


def test_no_snippet_is_only_looked_at() -> None:
    assert [str(block) for block in REST if not _is_run(block)] == []
