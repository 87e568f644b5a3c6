"""The system that is broken: one master with two writers and a relay, three replicas with two processes each."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from tests.chaos import ledger
from tests.chaos.brokers import Node
from tests.integration import servers
from tests.integration.harness import Driver, Process, Project, stop_all, wait_until
from tests.integration.proxy import Proxy

INSIDE = Path(__file__).parent / "inside"
#: Seconds within which all must be equal once the services are up again.
CONVERGENCE = 60.0
REPLICAS = ("r1", "r2", "r3")


_PENDING = "SELECT count(*) FROM django_cqrs_celery_outboxmessage WHERE status = 0"


@dataclass(frozen=True)
class Options:
    """What a stage is built with; ``cheat`` is one of the things that must make the checker find losses."""

    folder: Path
    vhost: str | None
    #: A broker of the run's own, which may be harmed as a whole.
    server: Node | None = None
    dispatch: str = "background"
    cheat: str | None = None
    relays: bool = True
    #: More keys of the replicas' settings.
    replica_settings: dict[str, Any] = field(default_factory=dict)


class Stage:
    """Processes, databases and links, and what is asked of them."""

    def __init__(self, options: Options, broker: servers.Broker, urls: dict[str, str], links: dict[str, Proxy]) -> None:
        self.options, self.broker, self.urls, self.links = options, broker, urls, links
        self.vhost = options.vhost
        self.traps = {name: _made(options.folder / "traps" / name) for name in ("writer", "relay", *REPLICAS)}
        self.master = self._project("shop", "shop")
        self.replicas = {name: self._project("search", name) for name in REPLICAS}
        self.workers: dict[str, Process] = {}
        self.writers: list[Driver] = []
        self.relay: Process | None = None
        self._relay_wanted = False
        self._stop_file = options.folder / "stop"
        self._launches = 0
        self.run = ""
        self.errors: dict[str, int] = {}
        self.killed_writers = 0
        #: Processes that ended though nobody killed them.
        self.ended: list[str] = []

    # -- building --

    def _project(self, project: str, name: str) -> Project:
        env = {
            **self.broker.env(name),
            "TESTBED_DATABASE_URL": self.urls[name],
            "TESTBED_BROKER_URL": through(self.links[name], self.broker.url),
            "TESTBED_DISPATCH": self.options.dispatch,
            "TESTBED_EXTRA": json.dumps(self._extra(name)),
        }  # fmt: skip
        if name == "shop":
            ids = ["country", "city", "event"]
            env["TESTBED_REPLICAS"] = json.dumps({self.broker.queue(each): ids for each in REPLICAS})
        else:
            env["SABOTAGE_TRAPS"] = str(self.traps[name])
            if self.options.cheat == "acks":
                env["SABOTAGE_ACK_EARLY"] = "1"
        built = Project(project, env=env, logs=_made(self.options.folder / name))
        built.env["DJANGO_SETTINGS_MODULE"] = f"sabotaged_{project}"
        built.env["PYTHONPATH"] = os.pathsep.join([str(INSIDE), built.env["PYTHONPATH"]])
        return built

    def _extra(self, name: str) -> dict[str, Any]:
        if name != "shop":
            return self.options.replica_settings
        return {"outbox_lease": 3, "publish_timeout": 2, "outbox": self.options.cheat != "outbox"}

    def start(self) -> None:
        """Make the tables, then start the workers and the relay."""
        projects = [self.master, *self.replicas.values()]
        for project in projects:
            project.driver.send("call_command('migrate', run_syncdb=True, verbosity=0)")
        for project in projects:
            project.driver.answer()
            project.close()
        ledger.prepare_master(self.master_url)
        for url in self.replica_urls:
            ledger.prepare_replica(url)
        self.restore()

    def stop(self) -> None:
        """End all processes."""
        stop_all([*self.workers.values(), *self.writers, *([self.relay] if self.relay else [])])

    # -- names --

    @property
    def master_url(self) -> str:
        return self.urls["shop"]

    @property
    def replica_urls(self) -> list[str]:
        return [self.urls[name] for name in REPLICAS]

    def control(self, *arguments: str) -> None:
        """Run the broker's command line tool."""
        (self.options.server.control if self.options.server else servers.rabbitmqctl)(*arguments)

    def queue(self, name: str = "r1") -> str:
        return self.broker.queue(name)

    # -- processes --

    def restore(self, relay: bool = True) -> None:
        """Start what is not running: workers, relay."""
        started = []
        for name in REPLICAS:
            worker = self.workers.get(name)
            if worker is None or not worker.is_alive:
                if worker is not None:
                    self._note_end(worker)
                self.workers[name] = self.start_worker(name)
                started.append(self.workers[name])
        for worker in started:
            worker.wait_for_log("Consuming")
        if relay and self.options.relays:
            self.start_relay()

    def start_worker(self, name: str) -> Process:
        """A worker of a replica, which may not be ready yet."""
        node = f"{name}.{self.broker.prefix}.{self._number()}@testbed"
        return self.replicas[name].worker("-c", "2", "-n", node, ready=False)

    def start_relay(self) -> Process:
        """The resident relay, if it is not there."""
        if self.relay is None or not self.relay.is_alive:
            if self.relay is not None:
                self._note_end(self.relay)
            self.relay = self.master.manage(
                "cqrs_relay", "--loop", "--interval", "0.05", name="relay", SABOTAGE_TRAPS=str(self.traps["relay"])
            )
        return self.relay

    def _note_end(self, process: Process) -> None:
        process.kill()
        if process.popen.returncode not in (0, -signal.SIGKILL):
            self.ended.append(f"{process.name} has ended by itself, with {process.popen.returncode}")

    def _number(self) -> int:
        self._launches += 1
        return self._launches

    # -- load --

    def save_steadily(self, run: str, pace: float = 0.02) -> list[Driver]:
        """Set two writers to save rows one by one; ``answer()`` of each gives the times that its saves took."""
        self._stop_file.unlink(missing_ok=True)
        self.writers = [self.master.new_driver() for _ in range(2)]
        for number, writer in enumerate(self.writers):
            writer.send(
                "import chaos_load; result = chaos_load.save_steadily(**options)",
                options={
                    "run": f"{run}{number}", "first_token": self._number() * 100_000, "stop": str(self._stop_file),
                    "pace": pace,
                },
            )  # fmt: skip
        return self.writers

    def stop_saving(self) -> list[list[float]]:
        """End ``save_steadily``; a save that failed fails this."""
        self._stop_file.touch()
        times = [time for writer in self.writers for time in writer.answer()]
        for writer in self.writers:
            writer.popen.stdin.close()  # type: ignore[union-attr]
            writer.popen.wait(30)
            writer.kill()
        self.writers = []
        return sorted(times)

    def start_load(self, run: str, seed: int, *, pace: float = 0.015, deletes: bool = True, writers: int = 2) -> None:
        """Set writers to work; the same seed makes the same changes."""
        self._stop_file.unlink(missing_ok=True)
        self.run, self.errors, self.killed_writers = run, {}, 0
        self._load = {"pace": pace, "deletes": deletes}
        self.writers = [self._start_writer(seed * 100 + number) for number in range(writers)]
        wait_until(lambda: self.committed() > 60, "the load is under way")

    def _start_writer(self, seed: int) -> Driver:
        env = {"TESTBED_DISPATCH": "relay"} if self.options.relays and seed % 2 else {}
        writer = self.master.new_driver(SABOTAGE_TRAPS=str(self.traps["writer"]), **env)
        writer.send(
            "import chaos_load; result = chaos_load.write(**options)",
            options={
                "run": self.run, "seed": seed, "first_token": self._number() * 100_000, "stop": str(self._stop_file),
                **self._load,
            },
        )  # fmt: skip
        return writer

    def replace_writers(self) -> None:
        """Start a writer for each that has been killed."""
        for position, writer in enumerate(self.writers):
            if not writer.is_alive:
                writer.kill()
                self.killed_writers += 1
                self.writers[position] = self._start_writer(self._number() * 100 + position)

    def stop_load(self) -> None:
        """Let the writers finish, and note what errors they met."""
        self._stop_file.touch()
        for writer in self.writers:
            if writer.is_alive:
                for name, count in writer.answer()["errors"].items():
                    self.errors[name] = self.errors.get(name, 0) + count
            writer.popen.stdin.close()  # type: ignore[union-attr]
        for writer in self.writers:
            with contextlib.suppress(Exception):
                writer.popen.wait(20)
            writer.kill()
        self.writers = []

    def committed(self) -> int:
        """Changes in the ledger."""
        return ledger.value(self.master_url, "SELECT count(*) FROM chaos_ledger")

    def let_it_work(self, changes: int, deadline: float = 120.0) -> None:
        """Wait until so many more changes have been committed."""
        wanted = self.committed() + changes
        wait_until(lambda: self.committed() >= wanted, f"{changes} more changes", deadline)

    # -- traps --

    def trap(self, who: str, step: str, *, deadline: float = 90.0) -> None:
        """Kill the next process of ``who`` that comes to a step, and wait until that has happened."""
        path = self.traps[who] / step
        sprung = path.with_name(f"{step}.sprung")
        sprung.unlink(missing_ok=True)
        path.touch()
        try:
            wait_until(
                lambda: sprung.exists() and sprung.read_text(), f"a process of {who} has come to {step!r}", deadline
            )
        finally:
            path.unlink(missing_ok=True)
        wait_until(lambda: _is_gone(sprung.read_text()), "the process is gone")

    def counted(self, name: str, what: str) -> int:
        """What the processes of a replica have counted: messages, failures, changes that came again."""
        try:
            return sum(map(int, (self.traps[name] / what).read_text().split()))
        except FileNotFoundError:
            return 0

    def begin(self) -> None:
        """Forget what has been recorded so far."""
        self.ended.clear()
        self.first_token = (self._launches + 1) * 100_000
        ledger.forget(self.master_url, self.replica_urls)
        for name in REPLICAS:
            for what in ("again", "messages", "failures"):
                (self.traps[name] / what).unlink(missing_ok=True)

    # -- is all well --

    def complaint(self, names: tuple[str, ...] = REPLICAS) -> str | None:
        """What is not yet as it must be in the end, or None."""
        pending = ledger.value(self.master_url, _PENDING)
        if pending:
            return f"{pending} outbox rows are pending"
        ours = ledger.fingerprint(self.master_url, "shop")
        for name in names:
            if ledger.fingerprint(self.urls[name], "search") != ours:
                return f"{name} differs"
            letters = ledger.query(
                self.urls[name],
                "SELECT status, error_class, count(*) FROM django_cqrs_celery_deadletter"
                " WHERE status IN ('pending', 'waiting', 'dead') GROUP BY 1, 2",
            )
            if letters:
                return f"{name} has open dead letters: {letters}"
            for queue in (self.queue(name), f"dead_letter_{self.queue(name)}"):
                waiting = self.broker.count(queue)
                if waiting:
                    return f"{waiting} messages wait in {queue}"
        return None

    def converge(self, deadline: float = CONVERGENCE, names: tuple[str, ...] = REPLICAS) -> tuple[float, str | None]:
        """Seconds until all was well, and what is still not so after the deadline."""
        start = time.monotonic()
        while True:
            complaint = self.complaint(names)
            seconds = time.monotonic() - start
            if complaint is None or seconds > deadline:
                return seconds, complaint
            time.sleep(0.2)


def _is_gone(pid: str) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True).stdout
    return not state.strip() or state.startswith("Z")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def through(link: Proxy, url: str) -> str:
    """An address by way of a link."""
    address = urlsplit(url)
    return urlunsplit(address._replace(netloc=f"{address.username}:{address.password}@127.0.0.1:{link.port}"))


@contextlib.contextmanager
def stage(options: Options) -> Iterator[Stage]:
    """Build the system; all of it is gone afterwards."""
    with contextlib.ExitStack() as stack:
        bus = stack.enter_context(servers.broker("rabbitmq", options.folder, options.vhost))
        if options.server:
            bus.url = options.server.url
        stack.callback(_remove, bus)
        address = urlsplit(bus.url)
        names = ("shop", *REPLICAS)
        urls = {name: stack.enter_context(servers.database("postgresql", options.folder)) for name in names}
        links = {name: stack.enter_context(Proxy(address.hostname, address.port)) for name in names}
        built = Stage(options, bus, urls, links)
        stack.callback(built.stop)
        built.start()
        yield built


def _remove(bus: Any) -> None:
    with contextlib.suppress(Exception):
        bus.remove(["shop", *REPLICAS])
