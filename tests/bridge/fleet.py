"""A shop and its search, written for django-cqrs: each is run by it until it is moved as the documentation says."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kombu

from tests import services
from tests.docs.blocks import ROOT, Block, blocks
from tests.integration import harness, servers
from tests.integration.harness import Driver, Process

HERE = Path(__file__).parent
PAGE = ROOT / "docs" / "howto" / "moving-from-django-cqrs.rst"
PEER_VENV = ROOT / ".venv-peer"
#: Master model and columns, replica model and columns.
COLUMNS = ["cqrs_revision", "cqrs_updated"]
_CITY = ["code", "latitude", "founded", "visited", "is_capital", "details", *COLUMNS]
TABLES = [
    ("Country", ["iso", "name", "population", *COLUMNS], "Country", ["iso", "name", "population", *COLUMNS]),
    ("City", ["id", "name", "country_id", *_CITY], "Place", ["id", "title", "country_iso", *_CITY]),
    ("Offer", ["id", "cqrs_revision"], "Offer", ["id", "cqrs_revision"]),
]
_FILE = re.compile(r"^# shop/(?P<path>\S+\.py)(?P<append>, at the end)?$")


def install_peer() -> Path:
    """Make the peer's environment by the Makefile; gives its Python. Raises ``CalledProcessError``."""
    target = f"{PEER_VENV.name}/.installed"
    subprocess.run(
        ["make", "-s", target, f"PYTHON={sys.executable}"], cwd=ROOT, check=True, capture_output=True, timeout=600
    )
    return PEER_VENV / "bin" / "python"


class Service:
    """One project in a folder of its own, with its database and processes."""

    def __init__(self, name: str, folder: Path, database: str, names: dict[str, str], peer: Path) -> None:
        self.name, self.logs, self.names = name, folder, names
        self.folder = folder / name
        shutil.copytree(HERE / "projects" / name, self.folder)
        self.python = str(peer)
        self.moved = False
        self.env = {
            "DJANGO_SETTINGS_MODULE": f"{name}.settings", "PYTHONPATH": f"{self.folder}:{HERE}:{ROOT}",
            "DATABASE_URL": database, "BROKER_URL": services.AMQP_URL, "C_FORCE_ROOT": "1", "PYTHONWARNINGS": "ignore",
        }  # fmt: skip
        self.count = 0
        settings = self.folder / name / "settings.py"
        settings.write_text(self.own_names(settings.read_text()))

    def own_names(self, text: str) -> str:
        """The text with this run's names on the broker in place of those of the page."""
        for name in sorted(self.names, key=len, reverse=True):
            text = re.sub(rf'(": |_QUEUE = )"{name}"', rf'\1"{self.names[name]}"', text)
        return text

    # -- processes ---------------------------------------------------------------------------------------------------

    def process(self, *command: str, name: str, kind: type[Process] = Process, **pipes: Any) -> Process:
        self.count += 1
        return kind(
            command, name=f"{self.name}-{name}-{self.count}", env=self.env, cwd=self.folder, logs=self.logs, **pipes
        )

    def driver(self) -> Driver:
        """A process that runs code inside the project, as it is now."""
        self.count += 1
        command = [self.python, str(HERE / "driver.py")]
        return Driver(
            command, name=f"{self.name}-driver-{self.count}", env=self.env, cwd=self.folder, logs=self.logs
        )

    def manage(self, *arguments: str) -> str:
        """Run a management command to its end."""
        return self._call(self.python, "manage.py", *arguments)

    def _call(self, *command: str, **more: str) -> str:
        environment = {**os.environ, **self.env, **more}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def consume(self) -> Process:
        """The replica's worker, consuming when this returns."""
        if not self.moved:
            worker = self.process(self.python, "manage.py", "cqrs_consume", name="consume")
            harness.wait_until(lambda: _consumers(self.names["search"]), "django-cqrs consumes its queue")
            return worker
        node = f"{self.name}{self.count}.{uuid.uuid4().hex[:6]}@bridge"
        worker = self.process(
            self.python, "-m", "celery", "-A", self.name, "worker", "-Q", self.names["search_celery"], "-n", node,
            "-c", "2", "-l", "INFO", name="worker",
        )  # fmt: skip
        worker.wait_for_log("of django-cqrs masters." if "legacy_queue" in self.settings() else "ready.")
        return worker

    def relay(self) -> Process:
        """What publishes what a process that was killed has left."""
        return self.process(self.python, "manage.py", "cqrs_relay", "--loop", name="relay")

    def settings(self) -> str:
        """The settings as they are now."""
        return (self.folder / self.name / "settings.py").read_text()

    # -- moving ------------------------------------------------------------------------------------------------------

    def move(self, commands: tuple[str, ...] = ("sed", "manage.py")) -> None:
        """Do what the page says, block by block, and nothing else; of its commands those with one of these words."""
        self.moved, self.python = True, sys.executable
        for block in blocks(PAGE):
            self._do(block, commands)

    def _do(self, block: Block, commands: tuple[str, ...]) -> None:
        text = block.text.replace("shop", self.name)
        if block.first_line == "# in shop/":
            if not any(word in text for word in commands):
                return
            self._call("sh", "-ec", text, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        elif match := _FILE.match(block.first_line):
            target = self.folder / match["path"].replace("shop", self.name)
            text = text.replace(f'_QUEUE = "{self.name}"', f'_QUEUE = "{self.names["tasks"]}_{self.name}"')
            target.write_text(target.read_text() + "\n" + text if match["append"] else text)
        elif block.text.startswith("CQRS = {") and self._is_mine(block.text):
            self.write_cqrs(block.text)

    def _is_mine(self, cqrs: str) -> bool:
        return "legacy" in cqrs and ('"queue"' in cqrs) == (self.name == "search")

    def write_cqrs(self, text: str) -> None:
        """Put another ``CQRS`` in place of the one in the settings."""
        settings = self.folder / self.name / "settings.py"
        source = settings.read_text()
        old = next(
            node for node in ast.parse(source).body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CQRS"
        )  # fmt: skip
        lines = source.splitlines(keepends=True)
        lines[old.lineno - 1 : old.end_lineno] = [self.own_names(text)]
        settings.write_text("".join(lines))


def _consumers(queue: str) -> int:
    with kombu.Connection(services.AMQP_URL) as connection, connection.channel() as channel:
        try:
            return channel.queue_declare(queue, passive=True).consumer_count
        except connection.channel_errors:
            return 0


def messages(queue: str) -> int:
    """Messages that wait in a queue; 0 where there is none."""
    with kombu.Connection(services.AMQP_URL) as connection, connection.channel() as channel:
        try:
            return channel.queue_declare(queue, passive=True).message_count
        except connection.channel_errors:
            return 0


def put(name: str, body: str, *, key: str | None = None, declare: bool = False) -> None:
    """Publish a body as django-cqrs does: to an exchange by a key, or straight into a queue."""
    with kombu.Connection(services.AMQP_URL) as connection, connection.channel() as channel:
        if declare:
            channel.queue_declare(name, durable=True, auto_delete=False)
        exchange, routing_key = ("", name) if key is None else (name, key)
        kombu.Producer(channel).publish(
            body, exchange=exchange, routing_key=routing_key, content_type="text/plain", content_encoding="utf-8"
        )


class Fleet:
    """The two services, as django-cqrs runs them."""

    def __init__(self, shop: Service, search: Service, names: dict[str, str]) -> None:
        self.shop, self.search, self.names = shop, search, names

    def differences(self, ours: Driver, theirs: Driver) -> list[str]:
        """Rows that the two do not have in common, as texts."""
        read = "result = [rows(globals()[model], fields, **more) for model, fields, more in tables]"
        left = [(t[0], t[1], {"name__startswith": "draft"} if t[0] == "City" else {}) for t in TABLES]
        a, b = ours.run(read, tables=left), theirs.run(read, tables=[(t[2], t[3], {}) for t in TABLES])
        found = []
        for table, mine, other in zip(TABLES, a, b, strict=True):
            assert mine, f"there are no rows of {table[0]}: nothing would be compared"
            found += [f"{table[0]} only in the shop: {row}" for row in sorted(set(mine) - set(other))]
            found += [f"{table[2]} only in search: {row}" for row in sorted(set(other) - set(mine))]
        return found

    def wait_equal(self, ours: Driver, theirs: Driver, deadline: float = harness.DEADLINE) -> None:
        """Wait until search equals the shop, field by field."""
        last: list[str] = []

        def equal() -> bool:
            last[:] = self.differences(ours, theirs)
            return not last

        try:
            harness.wait_until(equal, "search equals the shop", deadline, step=0.3)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{len(last)} rows:\n" + "\n".join(last[:12])) from None

    def remove(self) -> None:
        """Delete what is on the broker."""
        names = self.names
        queues = [names["search"], names["search_celery"], f"{names['tasks']}_shop", f"{names['tasks']}_search"]
        with kombu.Connection(services.AMQP_URL) as connection, connection.channel() as channel:
            for queue in [*queues, *(f"dead_letter_{name}" for name in queues)]:
                channel.queue_delete(queue)
            for exchange in (names["cqrs"], names["cqrs_celery"]):
                channel.exchange_delete(exchange)


@contextlib.contextmanager
def fleet(folder: Path, peer: Path) -> Iterator[Fleet]:
    """Two services that run django-cqrs, with databases of their own and their tables made."""
    mark = uuid.uuid4().hex[:8]
    names = {
        "cqrs": f"br_{mark}_cqrs", "cqrs_celery": f"br_{mark}_cqrs_celery", "search": f"br_{mark}_search",
        "search_celery": f"br_{mark}_search_celery", "tasks": f"br_{mark}_tasks",
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        made = [
            Service(name, folder, stack.enter_context(servers.database("postgresql", folder)), names, peer)
            for name in ("shop", "search")
        ]
        whole = Fleet(made[0], made[1], names)
        stack.callback(whole.remove)
        for service in made:
            service.manage("migrate", "-v0")
        yield whole
