"""``python -m example_project.demo``: start a master and two replicas, give them work, and compare.

``--once`` (or ``ONCE=1``) ends after the comparison, with exit code 0 only if all is equal. ``BROKER_URL`` and
``DATABASE_URL`` in the environment name servers of yours instead of the embedded ones, ``DEMO_DIR`` a directory to use
instead of ``.demo``, ``DEMO_NAME`` what the names of queues and databases begin with instead of ``cqrs_demo``.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from example_project import common
from example_project.demo import servers
from example_project.demo.processes import Died, Processes
from example_project.demo.screen import say
from example_project.demo.services import Service, wait_until_up
from example_project.demo.story import Story

#: Errors whose text says all that there is to say.
EXPECTED = (Died, TimeoutError, RuntimeError, OSError)


class Demo:
    """Everything that has to be taken down again."""

    def __init__(self, *, once: bool, cities: int | None) -> None:
        self.once, self.cities = once, cities
        self.is_equal = self._has_queues = False
        self.state = common.state_dir().resolve()
        self.logs = self.state / "logs"
        self.database_url = os.environ.get("DATABASE_URL")
        self.broker_url = os.environ.get("BROKER_URL")
        self.processes: Processes | None = None
        self._lock: IO[str] | None = None

    def run(self) -> None:
        """The whole demo; ``is_equal`` says how it went."""
        self._reset_state()
        processes = self._start_broker()
        services = [Service(name, position, processes) for position, name in enumerate(common.SERVICES)]
        self._prepare_databases(services)
        say("Starting master, search and stats: a web page, a Celery worker and Celery beat each ...")
        for service in services:
            service.start()
        wait_until_up(services, processes)
        self.is_equal = Story(services, processes, self.cities).tell()
        if not self.once:
            self._stay(services)

    def _reset_state(self) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        self._lock = (self.state / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RuntimeError(f"Another demo is running in {self.state}: stop it first.") from None
        for path in self.state.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
        self.logs.mkdir()

    def _start_broker(self) -> Processes:
        """Make sure of a broker. The processes that are started later are told where it is."""
        environment = {"DEMO_DIR": str(self.state)}
        port = servers.free_port()
        url = self.broker_url or f"redis://127.0.0.1:{port}/0"
        self.processes = Processes(common.ROOT, self.logs, environment | {"BROKER_URL": url})
        if self.broker_url:
            with _naming("BROKER_URL"):
                servers.clear_broker(url)
            self._has_queues = True
        else:
            self.processes.start("broker", *servers.embedded_broker(self.state, port))
            deadline = time.monotonic() + 15
            while not servers.is_listening(port):
                self.processes.check()
                if time.monotonic() > deadline:
                    raise TimeoutError("The embedded broker does not answer.")
                time.sleep(0.02)
        say(f"Broker: {'yours' if self.broker_url else 'embedded Valkey'}. Logs: {self.logs}")
        return self.processes

    def _prepare_databases(self, services: list[Service]) -> None:
        say(f"Databases: {'on your server' if self.database_url else 'SQLite'}, one for each service; migrating ...")
        with _naming("DATABASE_URL"):
            servers.create_databases(self.database_url)
        names = [f"{service.name} migrate" for service in services]
        for service, name in zip(services, names, strict=True):
            service.processes.begin(name, *service.manage("migrate", "--no-color"))
        services[0].processes.finish(*names)

    def _stay(self, services: list[Service]) -> None:
        master, search, stats = services
        say("\nThe services are up; stop them with Ctrl+C.")
        for service in services:
            where = common.databases(service.name)["default"]["NAME"]
            say(f"  {service.name:<7} {service.address}   queue {service.queue}   database {where}")
        say("Change a row on the master and see it on the replicas:")
        say(f"  curl -d population=4000000 {master.address}city/2950159/")
        say(f"  curl {search.address}city/2950159/ {stats.address}city/2950159/")
        while True:
            master.processes.check()
            time.sleep(0.5)

    def take_down(self) -> None:
        """Stop the processes, and leave nothing on servers that others may use too."""
        if self.processes is None:
            return
        say("Stopping ...")
        self.processes.stop()
        try:
            if self._has_queues:
                servers.clear_broker(self.broker_url or "")
            if self.once and self.is_equal:
                servers.drop_databases(self.database_url)
        except Exception as error:
            say(f"Something is left on your servers: {type(error).__name__}: {error}")


@contextmanager
def _naming(variable: str) -> Iterator[None]:
    """Say of an error which variable of the environment it is about."""
    try:
        yield
    except Exception as error:
        raise RuntimeError(f"The server that {variable} names cannot be used: {error}") from error


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run the demo; the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    parser = argparse.ArgumentParser(prog="python -m example_project.demo", description=__doc__)
    parser.add_argument("--once", action="store_true", default=os.environ.get("ONCE", "0") not in ("", "0"))
    parser.add_argument("--cities", type=int, default=None, help="import only that many cities, the most populous ones")
    options = parser.parse_args()
    demo = Demo(once=options.once, cities=options.cities)
    try:
        demo.run()
        code = 0 if demo.is_equal else 1
    except KeyboardInterrupt:
        code = 0 if demo.is_equal else 130
    except Exception as error:
        say(f"\n{error}" if isinstance(error, EXPECTED) else f"\nThe demo failed: {type(error).__name__}: {error}")
        code = 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        demo.take_down()
    return code


if __name__ == "__main__":
    sys.exit(main())
