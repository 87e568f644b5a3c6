"""The three services: how their processes are started, and what their web pages tell."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from example_project import common
from example_project.demo import servers
from example_project.demo.processes import Processes, python

FIRST_PORT = 8100


class Service:
    """A service: a web process, a Celery worker and Celery beat."""

    def __init__(self, name: str, position: int, processes: Processes) -> None:
        self.name, self.processes = name, processes
        self.queue = common.REPLICA_QUEUES.get(name, common.MASTER_QUEUE)
        self.port = servers.free_port(FIRST_PORT + position)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def manage(self, *arguments: str) -> tuple[str, ...]:
        """A management command of this service."""
        return python("-m", f"example_project.{self.name}.manage", *arguments)

    def celery(self, *arguments: str) -> tuple[str, ...]:
        """A Celery command of this service."""
        return python("-m", "celery", "-A", f"example_project.{self.name}", *arguments)

    def start(self) -> None:
        """Start its processes."""
        self.processes.start(
            f"{self.name} worker",
            *self.celery(
                "worker", "-Q", self.queue, "-n", f"{common.NAME}_{self.name}@%h", "-c", "1", "-l", "INFO",
                "--without-gossip", "--without-mingle",
            ),
        )  # fmt: skip
        self.processes.start(f"{self.name} web", *self.manage("runserver", "--noreload", f"127.0.0.1:{self.port}"))
        schedule = common.state_dir() / f"{self.name}-beat"
        self.processes.start(f"{self.name} beat", *self.celery("beat", "-l", "INFO", "-s", str(schedule)))

    # -- its web pages -----------------------------------------------------------------------------------------------

    def _get(self, path: str, data: dict[str, Any] | None = None) -> Any:
        body = urlencode(data).encode() if data is not None else None
        return urlopen(f"{self.address}{path}", body, timeout=30)

    def is_up(self) -> bool:
        """Whether its web page answers."""
        try:
            self._get("").close()
        except (URLError, OSError):
            return False
        return True

    def overview(self) -> dict[str, Any]:
        """Rows, sums of revisions, dead letters and outbox rows."""
        with self._get("") as answer:
            return json.load(answer)

    def rows(self, cqrs_id: str) -> Iterator[dict[str, Any]]:
        """Every row of a model."""
        with self._get(f"{cqrs_id}/") as answer:
            for line in answer:
                yield json.loads(line)

    def row(self, cqrs_id: str, pk: Any) -> dict[str, Any]:
        """One row."""
        with self._get(f"{cqrs_id}/{pk}/") as answer:
            return json.load(answer)

    def change(self, cqrs_id: str, pk: Any, **values: Any) -> dict[str, Any]:
        """Change one row; the master alone takes that."""
        with self._get(f"{cqrs_id}/{pk}/", values) as answer:
            return json.load(answer)


def wait_until_up(services: list[Service], processes: Processes, seconds: float = 60.0) -> None:
    """Wait until every service answers. Raises ``Died`` or ``TimeoutError``."""
    deadline = time.monotonic() + seconds
    for service in services:
        while not service.is_up():
            processes.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{service.name} does not answer at {service.address} after {seconds:.0f} s.")
            time.sleep(0.1)
