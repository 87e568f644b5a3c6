"""A RabbitMQ node of its own, for faults that harm the whole broker: on ports of its own, with data of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests.integration.harness import Process, wait_until
from tests.integration.servers import free_port

#: The scripts behind those in the PATH, which on some systems insist on a user, and a cookie, of their own.
_SCRIPTS = Path("/usr/lib/rabbitmq/bin")


def _script(name: str) -> str:
    return str(_SCRIPTS / name) if (_SCRIPTS / name).exists() else name


class Node:
    """The server process, which can be killed and started again with the data that it had."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"chaos_{uuid.uuid4().hex[:8]}@localhost"
        self.port = free_port()
        self._env = {
            "RABBITMQ_NODENAME": self.name, "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1", "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"), "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"), "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_PID_FILE": str(folder / "pid"), "HOME": str(folder),
        }  # fmt: skip
        self.process: Process | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def start(self) -> None:
        """Start the server, and wait until it takes connections."""
        self.process = Process(
            [_script("rabbitmq-server")], name="rabbitmq", env=self._env, cwd=self.folder, logs=self.folder
        )
        wait_until(self._answers, "the broker of this run answers", step=0.5)

    def _answers(self) -> bool:
        if self.process is None or not self.process.is_alive:
            raise AssertionError(f"The broker has ended:\n{self.process and self.process.log()[-2000:]}")
        try:
            self.control("await_startup", "--timeout", "20")
        except subprocess.SubprocessError:
            return False
        return True

    def control(self, *arguments: str) -> None:
        """Run the broker's command line tool on this node."""
        subprocess.run(
            [_script("rabbitmqctl"), "-q", "-n", self.name, *arguments], check=True, capture_output=True, timeout=60,
            env={**os.environ, **self._env},
        )  # fmt: skip

    def kill(self) -> None:
        """End it at once, as kill -9 does."""
        if self.process is not None:
            self.process.kill()


@contextlib.contextmanager
def own_node(folder: Path) -> Iterator[Node]:
    """A node for this run alone."""
    if shutil.which("rabbitmqctl") is None:
        raise RuntimeError("A broker of its own needs rabbitmq-server and rabbitmqctl on this machine.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plugins").write_text("[].\n")
    node = Node(folder)
    try:
        node.start()
        yield node
    finally:
        node.kill()
