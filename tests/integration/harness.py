"""Real processes for tests: start them, watch them, stop them by their ids, and show their logs when a test fails."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

PROJECTS = Path(__file__).parent / "projects"
ROOT = Path(__file__).parents[2]
#: Seconds that a condition may take; far more than it needs, for machines with other things to do.
DEADLINE = float(os.environ.get("CQRS_TEST_DEADLINE", "120"))


def wait_until(condition: Callable[[], T], what: str, deadline: float = DEADLINE, step: float = 0.05) -> T:
    """Poll until ``condition()`` is true and return it; fails the test, saying ``what``, after the deadline.

    A condition that is dear to ask (two whole tables compared) is asked less often: what is waited for needs the
    processor, too.
    """
    end = time.monotonic() + deadline
    while True:
        began = time.monotonic()
        value = condition()
        if value:
            return value
        now = time.monotonic()
        if now > end:
            raise AssertionError(f"After {deadline:.0f} s still not: {what}.")
        time.sleep(max(step, 2 * (now - began)))


class Process:
    """A process in a group of its own, with a log file."""

    #: All processes of the test run that were started and not yet closed; their logs belong to a failure's report.
    running: list[Process] = []

    def __init__(self, command: Sequence[str], *, name: str, env: dict[str, str], cwd: Path, logs: Path, **pipes: Any):
        self.name, self.command = name, list(command)
        self.log_path = logs / f"{name}.log"
        self._forgotten = 0
        self._log = open(self.log_path, "ab")  # noqa: SIM115
        self.popen = subprocess.Popen(
            self.command, cwd=cwd, env={**os.environ, "PYTHONUNBUFFERED": "1", **env}, start_new_session=True,
            stdin=pipes.get("stdin", subprocess.DEVNULL), stdout=pipes.get("stdout", self._log), stderr=self._log,
            text=True,
        )  # fmt: skip
        Process.running.append(self)

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def is_alive(self) -> bool:
        return self.popen.poll() is None

    def log(self) -> str:
        """What it has written so far, since ``forget_log`` if that was called."""
        return self.log_path.read_bytes()[self._forgotten :].decode(errors="replace")

    def forget_log(self) -> None:
        """Let ``log`` begin here, for the next test."""
        self._forgotten = self.log_path.stat().st_size

    def wait_for_log(self, text: str, deadline: float = DEADLINE) -> None:
        """Wait until its log contains a text; fails at once where it has ended without."""

        def seen() -> bool:
            found = text in self.log()
            if not found and not self.is_alive:
                end = self.log()[-2000:]
                raise AssertionError(f"{self.name} ended ({self.popen.returncode}) before it said {text!r}:\n{end}")
            return found

        wait_until(seen, f"{text!r} in the log of {self.name}", deadline)

    def children(self) -> list[int]:
        """Ids of its direct child processes."""
        answer = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.pid)], capture_output=True, text=True)
        return [int(word) for word in answer.stdout.split()]

    def send_signal(self, number: int) -> None:
        """Send a signal to the process itself."""
        self.popen.send_signal(number)

    def stop(self, number: int = signal.SIGTERM, deadline: float = 30.0) -> int:
        """Ask it to end, wait, and return its exit code; kills what is left of its group."""
        try:
            if self.is_alive:
                self.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.popen.wait(deadline)
        finally:
            self.kill()
        return self.popen.returncode

    def kill(self) -> None:
        """End the whole group at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait()
        self._log.close()
        if self in Process.running:
            Process.running.remove(self)


class ProjectError(AssertionError):
    """Code that a test ran inside a project raised."""


class Driver(Process):
    """A long-lived process inside a project that runs the code that a test gives it."""

    def __init__(self, command: Sequence[str] = (), **options: Any) -> None:
        command = command or [sys.executable, str(PROJECTS / "driver.py")]
        super().__init__(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.popen.stdout or ():
            self._answers.put(line)
        self._answers.put("")

    def send(self, code: str, **arguments: Any) -> None:
        """Start code without waiting for it; ``answer`` waits."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps({"code": code, "arguments": arguments}) + "\n")
        self.popen.stdin.flush()

    def answer(self, deadline: float = 2 * DEADLINE) -> Any:
        """The ``result`` of the code that was sent; raises what it raised."""
        try:
            line = self._answers.get(timeout=deadline)
        except queue.Empty:
            raise AssertionError(f"{self.name} did not answer within {deadline:.0f} s") from None
        assert line, f"{self.name} ended with {self.popen.poll()}"
        answer = json.loads(line)
        if "error" in answer:
            raise ProjectError(answer["error"])
        return answer["result"]

    def run(self, code: str, **arguments: Any) -> Any:
        """Run code inside the project and return what it left in ``result``, as JSON."""
        self.send(code, **arguments)
        return self.answer()


class Project:
    """One of the projects of ``projects/`` with its database, and the processes that a test starts of it."""

    def __init__(self, name: str, *, env: dict[str, str], logs: Path) -> None:
        self.name, self.logs = name, logs
        self.folder = PROJECTS / name
        self.env = {
            **env,
            "DJANGO_SETTINGS_MODULE": f"{name}.settings",
            "PYTHONPATH": os.pathsep.join(map(str, (self.folder, PROJECTS, ROOT))),
            "C_FORCE_ROOT": "1",
        }
        self._count = 0
        self._driver: Driver | None = None

    @property
    def driver(self) -> Driver:
        """The project's driver, started when it is first needed."""
        if self._driver is None:
            self._driver = Driver(**self._options("driver"))
        return self._driver

    def run(self, code: str, **arguments: Any) -> Any:
        """Run code inside the project; see ``Driver.run``."""
        return self.driver.run(code, **arguments)

    def new_driver(self, **env: str) -> Driver:
        """One more process inside the project, for a test that needs its own."""
        return Driver(**self._options("driver", env))

    def celery(self, *arguments: str, name: str = "celery", **env: str) -> Process:
        """``celery -A project …``"""
        command = [sys.executable, "-m", "celery", "-A", self.name, *arguments]
        return Process(command, **self._options(name, env))

    def worker(self, *arguments: str, queues: str | None = None, ready: bool = True, **env: str) -> Process:
        """``celery -A project worker -Q …``, ready to work when this returns."""
        queues = queues or self.env["TESTBED_QUEUE"]
        node = f"{self.name}{self._count}.{os.getpid()}@testbed"
        worker = self.celery("worker", "-Q", queues, "-n", node, "-l", "INFO", *arguments, name="worker", **env)
        if ready:
            try:
                worker.wait_for_log("ready.")
            except BaseException:
                worker.kill()
                raise
        return worker

    def manage(self, *arguments: str, name: str | None = None, **env: str) -> Process:
        """``./manage.py …``"""
        return Process([sys.executable, "manage.py", *arguments], **self._options(name or arguments[0], env))

    def close(self) -> None:
        """End the project's driver; its exit handlers run."""
        if self._driver is not None:
            assert self._driver.popen.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._driver.popen.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._driver.popen.wait(15)
            self._driver.kill()
            self._driver = None

    def _options(self, name: str, env: dict[str, str] | None = None) -> dict[str, Any]:
        self._count += 1
        return {
            "name": f"{self.name}-{name}-{self._count}", "env": {**self.env, **(env or {})}, "cwd": self.folder,
            "logs": self.logs,
        }  # fmt: skip


def stop_all(processes: Sequence[Process]) -> None:
    """Stop processes together: all are asked before any is waited for."""
    for process in processes:
        if process.is_alive:
            process.send_signal(signal.SIGTERM)
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.popen.wait(20)
        process.kill()
