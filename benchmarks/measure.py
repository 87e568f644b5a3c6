"""One measure in the environment of one library: ``python -m benchmarks.measure save n=1000``; prints JSON lines.

The numbers go to standard output, one line each; whatever libraries print goes to standard error.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from benchmarks import environment as env
from benchmarks import processes, servers


def _setup() -> Iterator[dict[str, Any]]:
    servers.create_databases()
    for side in ("master", "replica"):
        processes.run("migrate", "--run-syncdb", "-v0", side=side)
    processes.declare_queue()
    yield {"versions": _versions()}


def _versions() -> dict[str, str]:
    from importlib import metadata

    wanted = ("django-cqrs-celery", "django-cqrs", "Django", "psycopg", "celery", "kombu", "pika")
    found = {name: metadata.version(name) for name in wanted if name in _installed()}
    with servers.connect("postgres") as server, servers.broker() as queues:
        found["PostgreSQL"] = servers.value(server, "SHOW server_version").split()[0]
        found["RabbitMQ"] = str(queues.connection.server_properties["version"])
    return {"Python": sys.version.split()[0], **found}


def _installed() -> set[str]:
    from importlib import metadata

    return {distribution.metadata["Name"] for distribution in metadata.distributions()}


def _teardown() -> Iterator[dict[str, Any]]:
    servers.drop_databases()
    yield from _remove_queue()


def _declare_queue() -> Iterator[dict[str, Any]]:
    processes.declare_queue()
    yield {}


def _remove_queue() -> Iterator[dict[str, Any]]:
    with servers.broker() as queues:
        queues.remove()
    yield {}


def measures() -> dict[str, Callable[..., Iterator[dict[str, Any]]]]:
    """All measures by name."""
    from benchmarks.measures import applying, bulk, capturing, latency, limits, memory, outage, saves

    return {
        "setup": _setup, "teardown": _teardown, "declare": _declare_queue, "remove": _remove_queue,
        "save": saves.save, "capture": capturing.capture, "messages": applying.messages,
        "apply": applying.apply, "bulk_create": bulk.bulk_create, "bulk_update": bulk.bulk_update, "sync": bulk.sync,
        "dump_load": bulk.dump_load, "diff": bulk.diff, "latency": latency.lone, "latency_loaded": latency.loaded,
        "memory": memory.memory, "outage": outage.outage, "limits": limits.limits,
    }  # fmt: skip


def main() -> None:
    """Run one measure with the arguments of the command line."""
    if env.SIDE == "master":
        import django

        django.setup()
    function = measures()[sys.argv[1]]
    kinds = {name: type(p.default) for name, p in inspect.signature(function).parameters.items()}
    kinds["path"] = Path
    pairs = (argument.partition("=") for argument in sys.argv[2:])
    arguments = {name: kinds[name](text) for name, _, text in pairs}
    output = sys.stdout
    with redirect_stdout(sys.stderr):
        for numbers in function(**arguments):
            print(json.dumps(numbers), file=output, flush=True)


if __name__ == "__main__":
    main()
