"""Processes that a measure starts, and ends again by their own group."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks import environment as env
from benchmarks.servers import Broker, broker, wait_for

LOGS = Path(os.environ.get("BENCH_LOGS", env.ROOT / "benchmarks" / "results" / "logs"))


class Process:
    """A process in a group of its own, with a log."""

    def __init__(self, arguments: list[str], log: str, environment: dict[str, str]) -> None:
        LOGS.mkdir(parents=True, exist_ok=True)
        self.log = (LOGS / f"{env.LIBRARY}.{log}.log").open("ab")
        self.popen = subprocess.Popen(
            arguments, cwd=env.ROOT, env=environment, stdout=self.log, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def children(self) -> list[int]:
        """Processes that it has started and that live."""
        pids = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError, IndexError):
                    fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                    if int(fields[1]) == self.popen.pid and fields[0] != "Z":
                        pids.append(int(entry.name))
        return pids

    def stop(self) -> None:
        """End it in good order, and by force whatever is left of its group."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.popen.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        self.log.close()


def start_worker(workers: int = 1) -> Process:
    """The library's own consumer of the replica's queue."""
    return Process(
        env.command("cqrs_consume", "-w", str(workers)), f"worker{workers}", env.of_process(side="replica")
    )


def _consumes(connection: Broker, workers: int) -> bool:
    return connection.consumers() >= (workers if env.LIBRARY == env.PEER else 1)


@contextmanager
def running_worker(workers: int = 1) -> Iterator[Process]:
    """A consumer that has begun to consume."""
    worker = start_worker(workers)
    try:
        with broker() as connection:
            wait_for(lambda: _consumes(connection, workers), 60, "a worker's start")
        yield worker
    finally:
        worker.stop()


def declare_queue() -> None:
    """Let the library declare and bind its queue."""
    with running_worker():
        pass


def run(*arguments: str, side: str) -> None:
    """A Django command of one of the services; its output comes with the error if it fails."""
    done = subprocess.run(
        env.command(*arguments), cwd=env.ROOT, env=env.of_process(side=side), capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{env.LIBRARY}: {' '.join(arguments)} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def memory(pid: int | str = "self") -> float:
    """Resident memory of a process in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"Process {pid} has no resident memory.")


def peak_memory() -> float:
    """Highest resident memory of this process in MB since ``forget_peak``."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("This process has no peak of resident memory.")


def forget_peak() -> None:
    """Let ``peak_memory`` start at what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
