"""A runner that does what the blocks of a page say: it writes the files, types the code, runs the commands."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.docs.blocks import COMMANDS, FILE, ROOT, TYPED, Block, blocks, command_lines, prints

PATIENCE = 180

#: Commands that stay, and what each says when it is ready.
READY = {
    r"celery .* worker .*-Q ": "Consuming ",
    r"celery .* worker ": " ready.",
    r"celery .* beat": "beat: Starting",
    r"python manage\.py cqrs_consume": "Consuming ",
    r"python manage\.py cqrs_relay --loop": "Relaying",
}
#: Commands that only look: they are repeated until the state of things is the one that the page shows.
_LOOKS = re.compile(r"python manage\.py (cqrs_status|cqrs_dead_letters list|cqrs_triggers status)\b")


@dataclass
class Terminal:
    """A command that stays: its process, and the file that has what it says."""

    command: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self) -> None:
        """End it: politely, then for good."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)


class Runner:
    """Does in ``base`` what the blocks of a page say, with names of its own in place of those on the page."""

    def __init__(self, base: Path, names: Mapping[str, str]) -> None:
        self.base, self.names = base, dict(names)
        #: What the last commands have printed.
        self.printed = ""
        #: All commands that stay, in order of their start, and those that run, by what tells them apart.
        self.staying: list[Terminal] = []
        self.running: dict[str, Terminal] = {}
        self._before: dict[Path, bytes | None] = {}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        kept = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
        ours = {"PATH": path, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1"}
        self.environment = {**kept, **ours}

    def take_clone(self) -> None:
        """Make "the clone", and an environment into which its package is installed; all else is the tests' own."""
        for name in ("django_cqrs_celery", "pyproject.toml", "setup.cfg", "README.rst", "LICENSE"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            (self.base / "the clone").mkdir(exist_ok=True)
            copy(ROOT / name, self.base / "the clone" / name)
        venv.create(self.base / "environment", symlinks=True)
        roots = dict.fromkeys(("base", "platbase"), str(self.base / "environment"))
        site = Path(sysconfig.get_path("purelib", vars=roots))
        (site / "others.pth").write_text(sysconfig.get_path("purelib"))
        self.environment["PYTHONPATH"] = str(site)

    # -- pages -------------------------------------------------------------------------------------------------------

    def run(self, page: Path, before: Mapping[str, Callable[[], object]] | None = None) -> None:
        """Run a whole page; ``before`` has what else is to be done before the block that has this word."""
        previous: Block | None = None
        started = len(self.staying)
        for block in blocks(page):
            for word, action in (before or {}).items():
                if word in block.text:
                    action()
            self._do(block, previous)
            previous = block
        for number in range(started, len(self.staying)):
            self._wait_until_ready(number)

    def visit(self, page: Path, before: Mapping[str, Callable[[], object]] | None = None) -> None:
        """Run a whole page and leave things as they were: the files, and which commands run."""
        self._before.clear()
        running = set(self.running)
        try:
            self.run(page, before)
        finally:
            for path, content in self._before.items():
                path.unlink() if content is None else path.write_bytes(content)
            for key in set(self.running) - running:
                self.running.pop(key).stop()

    def _do(self, block: Block, previous: Block | None) -> None:
        text = self._renamed(block.text)
        if block.language == "text":
            if previous is not None and TYPED.match(previous.first_line):
                self._expect_typed(previous, text)
            elif previous is not None and (found := COMMANDS.match(previous.first_line)) and not found["stays"]:
                self._expect_commands(previous, found["directory"], text)
            return
        if match := FILE.match(block.first_line):
            self._write(match, text)
        elif match := TYPED.match(block.first_line):
            self.type(match["directory"], text)
        elif match := COMMANDS.match(block.first_line):
            if match["stays"]:
                for line in command_lines(block):
                    self._start(self._renamed(line), match["directory"])
            else:
                self.call(text, match["directory"])
        elif block.text.startswith("CQRS = ") or block.language == "sql":
            pass  # shown for comparison, or run on a database of its own: another test does it
        else:
            raise AssertionError(f"{block}: nobody knows how to run it; its first line is {block.first_line!r}")

    def _renamed(self, text: str) -> str:
        for name, own in self.names.items():
            text = text.replace(name, own)
        return text

    # -- files -------------------------------------------------------------------------------------------------------

    def _write(self, match: re.Match[str], text: str) -> None:
        target = self.base / match["path"]
        self._before.setdefault(target, target.read_bytes() if target.exists() else None)
        if match["append"]:
            with target.open("a") as file:
                file.write("\n" + text)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def write_files(self, page: Path) -> list[str]:
        """Write the files of a page and run nothing; returns their paths."""
        found = [(block, match) for block in blocks(page) if (match := FILE.match(block.first_line))]
        for block, match in found:
            self._write(match, self._renamed(block.text))
        return [match["path"] for _, match in found]

    # -- commands that end -------------------------------------------------------------------------------------------

    def call(self, commands: str, directory: str) -> str:
        """Run commands in a directory; returns what they print, as a terminal shows it."""
        return self._call(["sh", "-ec", commands], directory, subprocess.STDOUT)

    def type(self, directory: str, code: str) -> str:
        """Run code in the shell of a project; returns what it prints."""
        return self._call([sys.executable, "manage.py", "shell", "-v0", "-c", code], directory, subprocess.PIPE)

    def _call(self, command: list[str], directory: str, errors: int) -> str:
        folder = self.base / ("." if directory.startswith("an ") else directory)
        environment = self.environment
        if directory == "the clone":
            paths = [str(self.base / "environment" / "bin"), environment["PATH"]]
            environment = {**environment, "PATH": os.pathsep.join(paths)}
        process = subprocess.Popen(
            command, cwd=folder, env=environment, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip
        try:
            printed, said = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired as error:
            os.killpg(process.pid, signal.SIGKILL)  # what the shell has started, too
            process.communicate()
            raise AssertionError(f"{command[-1]} takes too long; so far {error.output!r}\n{self.logs()}") from None
        assert process.returncode == 0, f"{command[-1]}\n{printed}\n{said}\n{self.logs()}"
        self.printed = printed
        return printed

    def expect(self, directory: str, code: str, shown: str, what: str = "printed") -> None:
        """Type the code again and again until it prints this."""
        deadline = time.monotonic() + PATIENCE
        while (seen := self.type(directory, code)).strip() != shown.strip():
            assert time.monotonic() < deadline, f"{what} {seen!r}, not {shown!r}\n{self.logs()}"

    def _expect_typed(self, block: Block, shown: str) -> None:
        match = TYPED.match(block.first_line)
        assert match is not None
        self.expect(match["directory"], self._renamed(block.text), shown, f"{block} prints")

    def _expect_commands(self, block: Block, directory: str, shown: str) -> None:
        only_looks = all(_LOOKS.match(line) for line in command_lines(block))
        deadline = time.monotonic() + PATIENCE
        while not prints(shown, self.printed):
            told = f"{block} prints\n{self.printed}\nand the page says\n{shown}\n{self.logs()}"
            assert only_looks and time.monotonic() < deadline, told
            self.call(self._renamed(block.text), directory)

    # -- commands that stay ------------------------------------------------------------------------------------------

    def _start(self, command: str, directory: str) -> None:
        """Start a command; one that runs and has the same name (``-n``), or is the same, ends before."""
        words = shlex.split(command)
        key = words[words.index("-n") + 1] if "-n" in words else f"{directory} {words[:4]}"
        if key in self.running:
            self.running[key].stop()
        log = self.base / f"terminal{len(self.staying)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["sh", "-c", f"exec {command}"], cwd=self.base / directory, env=self.environment,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.running[key] = Terminal(command, process, log)
        self.staying.append(self.running[key])
        if " -Q " in command:
            self._wait_until_ready(len(self.staying) - 1)  # the pages tell the reader to wait for it, too

    def _wait_until_ready(self, number: int) -> None:
        command = self.staying[number].command
        found = [word for pattern, word in READY.items() if re.match(pattern, command)]
        assert found, f"nobody knows what {command!r} says when it is ready"
        self.wait_for(number, found[0])

    def log(self, number: int) -> str:
        """What the command in the terminal of that number has said so far."""
        return self.staying[number].said

    def logs(self) -> str:
        """What all of them have said."""
        return "\n".join(f"--- {each.command}\n{each.said[-4000:]}" for each in self.staying)

    def wait_for(self, number: int, *words: str) -> None:
        """Wait until the command in that terminal has said all the words in one line."""
        deadline = time.monotonic() + PATIENCE
        while not any(all(word in line for word in words) for line in self.log(number).splitlines()):
            assert self.staying[number].process.poll() is None, f"it has ended\n{self.logs()}"
            assert time.monotonic() < deadline, f"no line with {words}\n{self.logs()}"
            time.sleep(0.1)

    def stop(self) -> None:
        """End the commands that stay."""
        for terminal in self.staying:
            if terminal.process.poll() is None:
                terminal.process.terminate()  # all at once, and then one after the other
        for terminal in self.staying:
            terminal.stop()
