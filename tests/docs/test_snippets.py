"""Every snippet of the pages is run by one of the tests of this folder; here those that no page's own test runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

import benchmarks.__main__ as bench
from benchmarks import plan
from django_cqrs_celery import registries, status
from django_cqrs_celery.mixins import RawReplicaMixin
from django_cqrs_celery.models import DeadLetter, Tombstone
from django_cqrs_celery.tasks import cqrs_apply
from tests.docs.blocks import COMMANDS, ROOT, TYPED, Block, blocks, command_lines, prints
from tests.docs.conftest import own_names
from tests.docs.test_docs import BLOCKS, task_names
from tests.master_app import models as master

#: Tasks of the reader's own on the pages.
OTHERS = {"news.tasks.send"}

#: Pages whose blocks are all run, and the test that does it.
RUN_AS_A_WHOLE = {
    "README.rst": "tests/docs/conftest.py",
    "add-a-replica.rst": "tests/docs/conftest.py",
    "first-fill.rst": "tests/docs/conftest.py",
    "schema-contract.rst": "tests/docs/conftest.py",
    "testing.rst": "tests/docs/test_readme.py",
    "relay.rst": "tests/docs/test_run_pages.py",
    "worker.rst": "tests/docs/test_run_pages.py",
    "beat.rst": "tests/docs/test_run_pages.py",
    "scheduled-healing.rst": "tests/docs/test_run_pages.py",
    "what-can-go-wrong.rst": "tests/docs/test_run_pages.py",
    "restore.rst": "tests/docs/test_run_pages.py",
    "commands.rst": "tests/docs/test_run_pages.py",
    "triggers.rst": "tests/docs/test_run_pages.py",
    "add-a-field.rst": "tests/docs/test_run_pages.py",
    "moving-from-django-cqrs.rst": "tests/bridge/fleet.py",
    "models.rst": "tests/docs/test_docs.py",
    "serializers.rst": "tests/docs/test_serializers.py",
    "many-to-many.rst": "tests/docs/test_links_and_triggers.py",
    "capture.rst": "tests/docs/test_links_and_triggers.py",
}
#: Commands that are shown and that no test runs as they stand, by a word in them: the reason, and what is done instead.
NOT_RUN = {
    "make bench": "takes an hour and a second environment; its options are parsed, tests/benchmarks runs parts of it",
    "docker run": "needs a daemon and the network; the port is compared with the one that the page uses",
    "example_project/compose.yaml": "as before; its ports are compared with the addresses on the page",
    "make demo": "tests/example runs the demo itself",
    "make test": "this is it",
    "sphinx-build": "CI runs it, as make docs",
}
SCHEDULES = [
    block for block in BLOCKS
    if block.path.name in ("beat.rst", "scheduled-healing.rst")
    and block.language == "python" and "\nCELERY_BEAT_SCHEDULE" in block.text
]  # fmt: skip
EMPTYING = [block for block in BLOCKS if block.language == "python" and "ReplicaRegistry.models.values()" in block.text]


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


REST = [block for block in BLOCKS if block.path.name not in RUN_AS_A_WHOLE and block.language not in ("json", "text")]


def test_every_block_is_run_or_listed() -> None:
    for page, test in RUN_AS_A_WHOLE.items():
        assert f'"{page}"' in (ROOT / test).read_text(), f"{test} does not run {page}"
    for block in REST:
        listed = block.language == "shell" and all(any(w in line for w in NOT_RUN) for line in command_lines(block))
        assert listed or block.text.startswith("CQRS = "), f"{block} is run by no test"


def test_what_is_not_run_is_on_the_pages() -> None:
    text = "\n".join(page.read_text() for page in (ROOT / "README.rst", *(ROOT / "docs").rglob("*.rst")))
    assert [word for word in NOT_RUN if word not in text] == []


def test_no_name_is_replaced_that_is_not_on_a_page() -> None:
    assert [name for name in own_names("x") if not any(name in block.text for block in BLOCKS)] == []


#: Texts that are not what the block before them prints: pictures, and a state that has passed when it could be seen.
PASSING = {
    "product snapshot to stats: not complete, 120000 rows so far.\n": {
        "cqrs_id": "product", "mode": "snapshot", "queue": "stats", "in_progress": True, "message": None,
        "position": {"done": 120000, "total": 0},
    },
}  # fmt: skip


def test_every_text_is_compared_with_what_is_printed() -> None:
    for page in {block.path for block in BLOCKS}:
        previous = None
        for block in blocks(page):
            if block.language == "text" and "──" not in block.text and block.text not in PASSING:
                assert previous is not None and previous.language in ("shell", "python"), block
                assert COMMANDS.match(previous.first_line) or TYPED.match(previous.first_line), block
            previous = block


@pytest.mark.parametrize("text", PASSING)
def test_states_that_pass_are_shown_as_they_are_printed(text: str) -> None:
    assert status.sync_line(PASSING[text]) == text.strip()


def test_printed_text_is_compared() -> None:
    shown = "…\na: 2 rows, 17 bytes, at 2026-01-31T12:00:01+00:00.\nb …\n…\n"
    printed = "x\ny\na: 2 rows, 3 bytes, at 2027-02-01T00:00:00.12345+00:00.\nb is there\n"
    assert prints(shown, printed)
    for wrong in (printed.replace("2 rows", "3 rows"), printed.replace("b is", "c is"), printed.replace("+00:00", "")):
        assert not prints(shown, wrong)
    assert not prints("a\n", "a\nb\n")
    assert not prints("a\nb\n", "a\n")


# --- what cannot be run here ---------------------------------------------------------------------------------------

README = (ROOT / "README.rst").read_text()
PERFORMANCE = ROOT / "docs" / "explanation" / "performance.rst"
BENCH = [line for block in blocks(PERFORMANCE) if block.language == "shell" for line in command_lines(block)]


@pytest.mark.parametrize("line", BENCH)
def test_the_benchmark_takes_what_is_shown(line: str, monkeypatch) -> None:
    command = shlex.split(line, comments=True)
    told = subprocess.run([*command, "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    _, _, called = told.rstrip().splitlines()[-1].partition(" -m benchmarks ")
    monkeypatch.setattr(sys, "argv", ["benchmarks", *shlex.split(called)])
    options = bench._arguments()
    sizes = plan.SMALL if options.small else plan.Sizes()
    steps = [*plan.each_repetition(sizes, ("ours",)), *plan.once(sizes, ("ours",))]
    assert any(bench._wanted(step, options.only) for step in steps)


COMPOSE = ROOT / "example_project" / "compose.yaml"


def _published(text: str) -> set[int]:
    return {int(port) for port in re.findall(r"\b(\d+):\d+\b", text)}


def test_the_containers_listen_where_the_readme_connects() -> None:
    (run,) = re.findall(r"``(docker run [^`]+)``", README)
    (broker,) = set(re.findall(r'CELERY_BROKER_URL = "([^"]+)"', README))
    assert _published(run) == {urlsplit(broker).port or 5672}
    services = dict(re.findall(r"^  (\w+):\n((?:    .*\n)+)", COMPOSE.read_text(), re.MULTILINE))
    demo = README[README.index("BROKER_URL=") :]
    addresses = {name: urlsplit(re.findall(rf"{name}=(\S+?)[ `]", demo)[0]) for name in ("BROKER_URL", "DATABASE_URL")}
    assert set(services) == {"rabbitmq", "postgresql"}
    assert addresses["BROKER_URL"].port in _published(services["rabbitmq"].replace("127.0.0.1:", ""))
    assert addresses["DATABASE_URL"].port in _published(services["postgresql"].replace("127.0.0.1:", ""))
    assert addresses["BROKER_URL"].username == "guest"  # what the image has where nothing is said
    assert addresses["DATABASE_URL"].username == "postgres" and "METHOD: trust" in services["postgresql"]
    assert "--detach --wait" in COMPOSE.read_text() and str(COMPOSE.relative_to(ROOT)) in README
