"""Where replication stands in this service: what waits, what failed, since when. Reads only."""

from __future__ import annotations

from typing import Any

from django.db import DatabaseError, connections, models, router
from django.utils import timezone

from django_cqrs_celery import conf
from django_cqrs_celery.constants import SyncMode
from django_cqrs_celery.models import DeadLetter, OutboxMessage, Presence, SyncState, Tombstone
from django_cqrs_celery.registries import MasterRegistry, ReplicaRegistry


def gather() -> dict[str, Any]:
    """The whole state as plain values: settings, registered models, and for each database what its tables hold.

    A database that does not answer has an ``error`` in place of its numbers.
    """
    return {
        "queue": conf.queue(),
        "exchange": conf.exchange(),
        "masters": _names(MasterRegistry.models),
        "replicas": _names(ReplicaRegistry.models),
        "databases": {alias: _of_database(alias) for alias in _aliases()},
        "syncs": syncs(),
    }


def syncs() -> list[dict[str, Any]]:
    """What is known of each sync: of all replicas (``queue`` empty), and of each replica that has answered a digest.

    ``equal``: whether the replica was found equal in the last round. Times are ISO 8601 texts or None.
    """
    found = []
    for alias in _aliases():
        try:
            with connections[alias].cursor() as cursor:
                if SyncState._meta.db_table not in connections[alias].introspection.table_names(cursor):
                    continue
            states = list(SyncState.objects.using(alias).order_by("cqrs_id", "queue", "mode"))
        except DatabaseError:
            continue  # said with the database
        found += [_sync(state) for state in states]
    return found


def _sync(state: SyncState) -> dict[str, Any]:
    last = SyncState.objects.using(state._state.db).filter(cqrs_id=state.cqrs_id, mode=state.mode)
    newest = last.exclude(options=None).order_by("-started_at").values_list("round", flat=True).first()
    is_newest = newest in (None, state.round)
    times = {name: getattr(state, name) for name in ("started_at", "finished_at", "verified_at", "updated_at")}
    verified = times["verified_at"] is not None and (
        times["started_at"] is None or times["verified_at"] >= times["started_at"]
    )
    return {
        "cqrs_id": state.cqrs_id, "queue": state.queue, "mode": state.mode, "equal": verified and is_newest,
        "in_progress": state.position is not None, "position": {"done": state.done, "total": state.total},
        **{name: None if moment is None else moment.isoformat() for name, moment in times.items()},
        "rows_compared": state.rows_compared, "rows_repaired": state.rows_repaired,
        "rows_deleted": state.rows_deleted, "rows_ahead": state.rows_ahead, "rows_held_back": state.rows_held_back,
        "guarded": state.guarded, "message": state.message,
    }  # fmt: skip


def sync_line(sync: dict[str, Any]) -> str:
    """One sync in one line, for people."""
    parts = [f"{sync['cqrs_id']} {sync['mode']} to {sync['queue'] or 'all replicas'}:"]
    if sync["in_progress"]:
        parts.append(f"in progress, {sync['position']['done']} of {sync['position']['total']} rows;")
    if sync["queue"] and sync["mode"] == SyncMode.DIGEST.value:
        parts.append("equal," if sync["equal"] else "not known to be equal,")
        parts.append(f"last verified {sync['verified_at'] or 'never'},")
        parts.append(f"{sync['rows_compared']} rows compared, {sync['rows_repaired']} repaired")
        parts.append(f"({sync['rows_deleted']} deleted), {sync['rows_ahead']} ahead,")
        parts.append(f"{sync['rows_held_back']} deletes held back.")
    elif sync["in_progress"] and sync["mode"] == SyncMode.SNAPSHOT.value:
        parts = parts[:1] + [f"not complete, {sync['position']['done']} rows so far."]
    elif not sync["in_progress"]:
        parts.append(f"finished {sync['finished_at'] or 'never'}, {sync['position']['done']} rows.")
    if sync["message"]:
        parts.append(sync["message"])
    return " ".join(parts)


def _names(registered: dict[str, type[models.Model]]) -> dict[str, str]:
    def name(model: Any) -> str:
        return model._meta.label if hasattr(model, "_meta") else f"{model.__module__}.{model.__qualname__}"

    return {cqrs_id: name(model) for cqrs_id, model in sorted(registered.items())}


def _aliases() -> list[str]:
    """Databases that may hold tables of this app; mirrors of others are left out."""
    return [
        alias
        for alias in connections
        if not connections[alias].settings_dict.get("TEST", {}).get("MIRROR")
        and any(router.allow_migrate_model(alias, model) for model in (OutboxMessage, Tombstone, DeadLetter, SyncState))
    ]


def _of_database(alias: str) -> dict[str, Any]:
    try:
        with connections[alias].cursor() as cursor:
            tables = set(connections[alias].introspection.table_names(cursor))
        if OutboxMessage._meta.db_table not in tables and DeadLetter._meta.db_table not in tables:
            return {"error": "The tables of django_cqrs_celery are missing; run migrate for this database."}
        found: dict[str, Any] = {}
        if OutboxMessage._meta.db_table in tables:
            found["outbox"] = _outbox(alias)
        if DeadLetter._meta.db_table in tables:
            found["dead_letters"] = _dead_letters(alias)
            found["absences"] = _absences(alias)
            found["tombstones"] = Tombstone.objects.using(alias).filter(revision__gte=0).count()
        return found
    except DatabaseError as error:
        return {"error": f"{type(error).__name__}: {error}".strip()}


def _outbox(alias: str) -> dict[str, Any]:
    rows = OutboxMessage.objects.using(alias)
    oldest = rows.pending().order_by("pk").values_list("created_at", flat=True).first()
    age = None if oldest is None else max(0.0, round((timezone.now() - oldest).total_seconds(), 3))
    return {
        "pending": rows.pending().count(),
        "failed": rows.failed().count(),
        "oldest_pending_seconds": age,
        "tombstones": rows.tombstones().count(),
    }


def _absences(alias: str) -> list[dict[str, Any]]:
    """Times in which no worker consumed a queue for longer than tombstones live."""
    absences = Presence.objects.using(alias).absences().order_by("queue")
    times = absences.values_list("queue", "away_since", "away_until")
    return [{"queue": queue, "since": str(since), "until": str(until)} for queue, since, until in times]


def _dead_letters(alias: str) -> dict[str, dict[str, int]]:
    """Number of letters by status and CQRS_ID; an empty CQRS_ID is that of messages that could not be read."""
    counts = DeadLetter.objects.using(alias).order_by().values_list("status", "cqrs_id").annotate(n=models.Count("pk"))
    found: dict[str, dict[str, int]] = {}
    for status, cqrs_id, number in sorted(counts):
        found.setdefault(status, {})[cqrs_id] = number
    return found
