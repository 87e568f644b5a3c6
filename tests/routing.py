"""Which databases the models of the two sides live in, chosen by the test."""

from __future__ import annotations

from typing import Any

#: Database alias of each side; the fixture ``pair`` sets them.
current = {"master": "sqlite_master", "replica": "sqlite_replica"}

_SIDES = {
    "master_app": "master", "replica_app": "replica", "masters": "master", "replicas": "replica",
    "parity_masters": "master", "parity_replicas": "replica",
}  # fmt: skip
_PACKAGE = "django_cqrs_celery"


class Router:
    """Master models to the master's database, replica models and the package's replica tables to the replica's."""

    def _alias(self, model: Any) -> str | None:
        label = model._meta.app_label
        if label == _PACKAGE:
            return current["master"] if model.__name__ in ("OutboxMessage", "SyncState") else current["replica"]
        side = _SIDES.get(label)
        return current[side] if side else "default"

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return self._alias(model)

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        return self._alias(model)

    def allow_relation(self, one: Any, other: Any, **hints: Any) -> bool:
        return True

    def allow_migrate(self, db: str, app_label: str, model_name: str | None = None, **hints: Any) -> bool:
        if db == "default":
            return app_label not in (_PACKAGE, *_SIDES)
        if app_label == _PACKAGE:
            return True
        return _SIDES.get(app_label) is not None and db.endswith(_SIDES[app_label])
