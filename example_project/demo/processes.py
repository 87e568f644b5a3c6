"""Child processes of the demo: each with a log of its own, watched while it runs, stopped by its process id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

TAIL_LINES = 25


class Died(Exception):
    """A process ended that should not have, or with an error. Says which, and how its log ends."""

    def __init__(self, name: str, code: int, log: Path) -> None:
        lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:] if log.exists() else []
        tail = "\n".join(f"  {line}" for line in lines)
        super().__init__(f"{name} ended with exit code {code}. The end of {log}:\n{tail}")


class Processes:
    """The running services. The first that dies is reported by ``check()``."""

    def __init__(self, root: Path, logs: Path, environment: dict[str, str]) -> None:
        self.root, self.logs = root, logs
        self.environment = os.environ | environment | {"PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1"}
        self.environment.pop("DJANGO_SETTINGS_MODULE", None)  # each service names its own
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.passing: dict[str, subprocess.Popen[bytes]] = {}

    def log_of(self, name: str) -> Path:
        return self.logs / f"{name.replace(' ', '-')}.log"

    def start(self, name: str, *command: str) -> None:
        """Start a process that is to run until ``stop()``."""
        self.running[name] = self._popen(name, command)

    def begin(self, name: str, *command: str) -> None:
        """Start a process that does its work and ends; see ``is_done``."""
        self.passing[name] = self._popen(name, command)

    def is_done(self, name: str) -> bool:
        """Whether a process of ``begin`` has ended well. Raises ``Died`` where it has ended with an error."""
        self.check()
        code = self.passing[name].poll()
        if code:
            raise Died(name, code, self.log_of(name))
        return code == 0

    def finish(self, *names: str, seconds: float = 120.0) -> None:
        """Wait for processes of ``begin``."""
        deadline = time.monotonic() + seconds
        for name in names:
            while not self.is_done(name):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{name} has not ended after {seconds:.0f} s; see {self.log_of(name)}.")
                time.sleep(0.05)

    def output_of(self, name: str) -> str:
        """What a process has written to its log."""
        return self.log_of(name).read_text()

    def check(self) -> None:
        """Raise ``Died`` where a service has ended."""
        for name, process in self.running.items():
            code = process.poll()
            if code is not None:
                raise Died(name, code, self.log_of(name))

    def stop(self, seconds: float = 15.0) -> None:
        """End everything: the youngest first, so that the broker is there until the others have gone."""
        everything = [*self.running.values(), *self.passing.values()]
        brokers = [process for name, process in self.running.items() if name == "broker"]
        deadline = time.monotonic() + seconds
        for group in ([process for process in everything if process not in brokers], brokers):
            for process in reversed(group):
                if process.poll() is None:
                    process.terminate()
            for process in group:
                self._wait_or_kill(process, deadline)
        self.running.clear()
        self.passing.clear()

    @staticmethod
    def _wait_or_kill(process: subprocess.Popen[bytes], deadline: float) -> None:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            # It leads a group of its own, with the worker processes that it has started.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _popen(self, name: str, command: tuple[str, ...]) -> subprocess.Popen[bytes]:
        # A session of its own keeps the terminal's Ctrl+C from it: the runner decides who stops when.
        with self.log_of(name).open("ab") as log:
            return subprocess.Popen(
                command, cwd=self.root, env=self.environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip


def python(*arguments: str) -> tuple[str, ...]:
    """A command of this Python."""
    return (sys.executable, *arguments)
