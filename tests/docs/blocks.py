"""The code blocks of a reStructuredText page, and a runner that does what they say.

The first line of a block tells what it is::

    # shop/catalog/models.py                            a file
    # shop/shop/settings.py, at the end                 lines to add to a file
    # python manage.py shell, in shop/                  typed into the shell of a project
    # in shop/                                          commands
    # in shop/, in a terminal of its own                a command that stays

A ``text`` block after one that was typed into the shell, or after commands, is what they print.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60

_DIRECTIVE = re.compile(r"^(?P<indent> *)\.\. code-block:: (?P<language>\w+)\s*$")
_FILE = re.compile(r"^# (?P<path>\S+\.py)(?P<append>, at the end)?$")
_TYPED = re.compile(r"^# python manage\.py shell, in (?P<directory>\S+)$")
_COMMANDS = re.compile(r"^# in (?P<directory>\S+/|an empty directory|the clone)(?P<stays>, in a terminal of its own)?$")


@dataclass(frozen=True)
class Block:
    """One code block: where it stands, its language and its text."""

    path: Path
    line: int
    language: str
    text: str

    @property
    def first_line(self) -> str:
        return self.text.split("\n", 1)[0]

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def blocks(path: Path) -> Iterator[Block]:
    """The ``code-block`` directives of a page, in order."""
    lines = path.read_text().splitlines()
    number = 0
    while number < len(lines):
        match = _DIRECTIVE.match(lines[number])
        number += 1
        if match is None:
            continue
        begin, indent = number, len(match["indent"])
        body = []
        while number < len(lines) and (not lines[number].strip() or _indent(lines[number]) > indent):
            body.append(lines[number])
            number += 1
        kept = [line for line in body if not re.match(r"^ +:\w+:", line)] if body and body[0].strip() else body
        yield Block(path, begin, match["language"], textwrap.dedent("\n".join(kept)).strip("\n") + "\n")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


class Runner:
    """Does in ``base`` what the blocks of a page say, with names of its own in place of those on the page."""

    #: Blocks that are shown and not run: they change the reader's machine.
    NOT_RUN = ("# in the clone\npython -m pip install .\n",)

    def __init__(self, base: Path, names: Mapping[str, str]) -> None:
        self.base, self.names = base, dict(names)
        #: What the last commands have printed.
        self.printed = ""
        self.used: set[str] = set()
        self.staying: list[tuple[subprocess.Popen[bytes], Path]] = []
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        kept = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
        self.environment = {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}

    def run(self, page: Path) -> None:
        """Run a whole page."""
        previous: Block | None = None
        for block in blocks(page):
            self._do(block, previous)
            previous = block

    def _do(self, block: Block, previous: Block | None) -> None:
        text = self._renamed(block.text)
        if block.text in self.NOT_RUN:
            return
        if block.language == "text":
            if previous is not None and _TYPED.match(previous.first_line):
                self._expect(previous, text)
            elif previous is not None and (found := _COMMANDS.match(previous.first_line)) and not found["stays"]:
                assert self.printed.strip() == text.strip(), f"{previous} prints {self.printed!r}"
            return
        if match := _FILE.match(block.first_line):
            self._write(match, text)
        elif match := _TYPED.match(block.first_line):
            self.type(match["directory"], text)
        elif match := _COMMANDS.match(block.first_line):
            directory = "." if match["directory"].startswith("an ") else match["directory"]
            (self._start if match["stays"] else self.call)(text, directory)
        elif block.text.startswith("CQRS = "):
            pass  # shown for comparison; another test looks at it
        else:
            raise AssertionError(f"{block}: nobody knows how to run it; its first line is {block.first_line!r}")

    def _renamed(self, text: str) -> str:
        for name, own in self.names.items():
            if name in text:
                self.used.add(name)
                text = text.replace(name, own)
        return text

    def _write(self, match: re.Match[str], text: str) -> None:
        target = self.base / match["path"]
        if match["append"]:
            with target.open("a") as file:
                file.write("\n" + text)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def write_files(self, page: Path) -> list[str]:
        """Write the files of a page and run nothing; returns their paths."""
        found = [(block, match) for block in blocks(page) if (match := _FILE.match(block.first_line))]
        for block, match in found:
            self._write(match, self._renamed(block.text))
        return [match["path"] for _, match in found]

    def call(self, commands: str, directory: str) -> str:
        """Run commands in a directory; returns what they print."""
        return self._call(["sh", "-ec", commands], directory)

    def type(self, directory: str, code: str) -> str:
        """Run code in the shell of a project; returns what it prints."""
        return self._call([sys.executable, "manage.py", "shell", "-v0", "-c", code], directory)

    def _call(self, command: list[str], directory: str) -> str:
        done = subprocess.run(
            command, cwd=self.base / directory, env=self.environment, timeout=PATIENCE, text=True,
            stdin=subprocess.DEVNULL, capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
        self.printed = done.stdout + done.stderr
        return done.stdout

    def _expect(self, block: Block, printed: str) -> None:
        match = _TYPED.match(block.first_line)
        assert match is not None
        deadline = time.monotonic() + PATIENCE
        while (seen := self.type(match["directory"], self._renamed(block.text))).strip() != printed.strip():
            assert time.monotonic() < deadline, f"{block} prints {seen!r}, the page says {printed!r}\n{self.logs()}"

    def _start(self, text: str, directory: str) -> None:
        command = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert len(command) == 1, text
        log = self.base / f"terminal{len(self.staying)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["sh", "-c", f"exec {command[0]}"], cwd=self.base / directory, env=self.environment,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.staying.append((process, log))
        if " -Q " in command[0]:
            self.wait_for(len(self.staying) - 1, "Consuming ")  # the pages tell the reader to wait for it, too

    def log(self, number: int) -> str:
        """What the command in the terminal of that number has said so far."""
        return self.staying[number][1].read_text(errors="replace")

    def logs(self) -> str:
        """What all of them have said."""
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-4000:]}" for _, log in self.staying)

    def wait_for(self, number: int, *words: str) -> None:
        """Wait until the command in that terminal has said all the words in one line."""
        deadline = time.monotonic() + PATIENCE
        while not any(all(word in line for word in words) for line in self.log(number).splitlines()):
            assert self.staying[number][0].poll() is None, f"it has ended\n{self.logs()}"
            assert time.monotonic() < deadline, f"no line with {words}\n{self.logs()}"
            time.sleep(0.1)

    def stop(self) -> None:
        """End the commands that stay: politely, then for good."""
        for process, _ in self.staying:
            if process.poll() is None:
                process.terminate()
        for process, _ in self.staying:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
