"""The runner of pages notices what is wrong on a page."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.docs import running
from tests.docs.running import Runner

SHELL = ".. code-block:: shell\n\n   # in an empty directory\n   {}\n\n.. code-block:: text\n\n   {}\n"


@pytest.fixture
def run(tmp_path: Path):
    def visit(text: str) -> Runner:
        (tmp_path / "page.rst").write_text(text)
        runner = Runner(tmp_path, {"theirs": "ours"})
        try:
            runner.visit(tmp_path / "page.rst")
        finally:
            runner.stop()
        return runner

    return visit


def test_what_is_printed_is_compared(run) -> None:
    run(SHELL.format("echo a theirs", "a theirs"))
    with pytest.raises(AssertionError, match="and the page says"):
        run(SHELL.format("echo a theirs", "b theirs"))
    with pytest.raises(AssertionError, match="and the page says"):
        run(SHELL.format("echo a; echo b >&2", "a"))


@pytest.mark.parametrize("command", ["false", "false && true; true | false", "no-such-command"])
def test_a_command_that_fails_is_noticed(run, command: str) -> None:
    with pytest.raises(AssertionError, match=command.split()[0]):
        run(SHELL.format(command, ""))


def test_a_command_that_does_not_end_is_ended_with_all_that_it_has_started(run, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(running, "PATIENCE", 2)
    os.mkfifo(tmp_path / "open")  # has an end as soon as no process is left that holds it open
    reader = os.open(tmp_path / "open", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(AssertionError, match="takes too long"):
            run(SHELL.format("sh -c 'exec 3>open; sleep 600; true'; true", ""))
        deadline = time.monotonic() + 20
        while _is_held(reader):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.close(reader)


def _is_held(reader: int) -> bool:
    try:
        return os.read(reader, 1) != b""
    except BlockingIOError:
        return True


@pytest.mark.parametrize("block", ["python manage.py check", "# somewhere\ntrue", "GRANT ALL"])
def test_a_block_that_does_not_say_where_it_runs_is_noticed(run, block: str) -> None:
    with pytest.raises(AssertionError, match="nobody knows how to run it"):
        run(".. code-block:: shell\n\n   " + block.replace("\n", "\n   ") + "\n")


def test_a_command_that_stays_has_to_say_that_it_is_ready(run, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    stays = ".. code-block:: shell\n\n   # in shop/, in a terminal of its own\n   {}\n"
    with pytest.raises(AssertionError, match="nobody knows what"):
        run(stays.format("sleep 60"))
    (tmp_path / "shop" / "manage.py").write_text("print('Relaying; no')")
    assert run(stays.format("python manage.py cqrs_relay --loop")).running == {}
    (tmp_path / "shop" / "manage.py").write_text("print('no')")
    with pytest.raises(AssertionError, match="it has ended"):
        run(stays.format("python manage.py cqrs_relay --loop"))


def test_files_are_put_back(run, tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text("a = 1\n")
    page = ".. code-block:: python\n\n   # {}\n   a = 2\n"
    check = ".. code-block:: shell\n\n   # in an empty directory\n   cat old.py new.py\n\n"
    shown = ".. code-block:: text\n\n   a = 1\n\n   # old.py, at the end\n   a = 2\n   # new.py\n   a = 2\n"
    run(page.format("old.py, at the end") + "\n" + page.format("new.py") + "\n" + check + shown)
    assert (tmp_path / "old.py").read_text() == "a = 1\n"
    assert not (tmp_path / "new.py").exists()
