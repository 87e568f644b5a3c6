"""A whole system: one master project, replica projects, a broker, and how the tables of two sides are compared."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.integration import servers
from tests.integration.harness import DEADLINE, Project, wait_until

#: Tables that are compared: master model and fields, replica model and fields.
_WHOLE = {
    "Country": ["iso", "name", "population", "cqrs_revision"],
    "City": ["id", "name", "country_id", "population", "latitude", "founded", "cqrs_revision"],
    "Event": ["code", "title", "number", "happened", "lasted", "details", "raw", "cqrs_revision"],
}
TABLES: dict[str, list[tuple[str, list[str], str, list[str]]]] = {
    "search": [(model, fields, model, fields) for model, fields in _WHOLE.items()],
    "stats": [
        ("Country", ["iso", "name", "cqrs_revision"], "Land", ["code", "label", "cqrs_revision"]),
        (
            "City", ["id", "name", "country_id", "population", "cqrs_revision"],
            "Place", ["id", "title", "land_code", "people", "cqrs_revision"],
        ),
    ],
}  # fmt: skip
CQRS_IDS = {"search": ["country", "city", "event"], "stats": ["country", "city"]}
_READ = "result = [rows(globals()[model], fields) for model, fields in tables]"


class System:
    """The projects of one system and the broker between them."""

    def __init__(self, master: Project, replicas: dict[str, Project], broker: servers.Broker) -> None:
        self.master, self.replicas, self.broker = master, replicas, broker
        self._given_up: str | None = None

    @property
    def search(self) -> Project:
        """The replica that copies everything."""
        return self.replicas["search"]

    def queue(self, name: str = "search") -> str:
        """Name of a replica's queue."""
        return self.broker.queue(name)

    def differences(self, name: str) -> list[str]:
        """Rows that a replica and the master do not have in common, as texts; empty when all is equal."""
        tables = TABLES[name]
        ours = self.master.run(_READ, tables=[(table[0], table[1]) for table in tables])
        theirs = self.replicas[name].run(_READ, tables=[(table[2], table[3]) for table in tables])
        found = []
        for table, a, b in zip(tables, ours, theirs, strict=True):
            found += [f"{table[0]} only on the master: {row}" for row in sorted(set(a) - set(b))]
            found += [f"{table[2]} only on {name}: {row}" for row in sorted(set(b) - set(a))]
        return found

    def wait_equal(self, *names: str, deadline: float = DEADLINE) -> None:
        """Wait until the replicas equal the master field by field."""
        assert self._given_up is None, f"An earlier test has left this system unequal: {self._given_up}"
        for name in names or tuple(self.replicas):
            last: list[str] = []

            def equal(name: str = name, last: list[str] = last) -> bool:
                last[:] = self.differences(name)
                return not last

            try:
                wait_until(equal, f"{name} equals the master", deadline, step=0.1)
            except AssertionError as error:
                letters = [(each["status"], each["error_class"]) for each in self.letters(name)]
                shown = "\n".join(last[:10])
                self._given_up = str(error)
                raise AssertionError(
                    f"{error}\n{len(last)} rows differ:\n{shown}\nDead letters: {letters[:10]}"
                ) from None

    def letters(self, name: str = "search", **filters: Any) -> list[dict[str, Any]]:
        """The dead letters of a replica."""
        return self.replicas[name].run(
            "result = list(DeadLetter.objects.filter(**filters).order_by('id').values())", filters=filters
        )

    def clear(self) -> None:
        """Start anew with empty tables on the master and no dead letters."""
        self.master.run(
            "for model in (City, Country, Event):\n    for row in model.objects.all():\n        row.delete()"
        )


@contextlib.contextmanager
def system(
    folder: Path,
    *,
    engine: str | dict[str, str],
    broker: str,
    vhost: str | None = None,
    replicas: tuple[str, ...] = ("search", "stats"),
    queue_type: str = "quorum",
    dispatch: str = "background",
    declared_by_master: bool = True,
) -> Iterator[System]:
    """Set a system up: databases with their tables, names on the broker, a driver in each project.

    ``engine``: of all databases, or by project.
    """
    with contextlib.ExitStack() as stack:
        bus = stack.enter_context(servers.broker(broker, folder, vhost))
        stack.callback(bus.remove, ["shop", *replicas])
        projects: dict[str, Project] = {}
        for name in ("shop", *replicas):
            env = {
                **bus.env(name),
                "TESTBED_DATABASE_URL": stack.enter_context(
                    servers.database(engine if isinstance(engine, str) else engine[name], folder)
                ),
                "TESTBED_QUEUE_TYPE": queue_type,
                "TESTBED_DISPATCH": dispatch,
            }
            if name == "shop" and declared_by_master:
                env["TESTBED_REPLICAS"] = json.dumps({bus.queue(each): CQRS_IDS[each] for each in replicas})
            projects[name] = Project(name, env=env, logs=folder)
            stack.callback(projects[name].close)
        for project in projects.values():
            project.driver.send("call_command('migrate', run_syncdb=True, verbosity=0)")
        for project in projects.values():
            project.driver.answer()
        yield System(projects.pop("shop"), projects, bus)
