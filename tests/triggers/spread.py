"""What tests of rows in several tables share: the models, and what their replicas are told."""

from __future__ import annotations

import json

from tests.master_app import models as master
from tests.replica_app import models as replica
from tests.triggers.stock import connection, run

PARTS = {
    "machine": ("label", "power"), "place": ("name",), "cafe": ("name", "city", "seats"),
    "bistro": ("name", "city", "seats", "chef"), "hall": ("name", "rows"),
}  # fmt: skip
TABLES = {
    name: f"master_app_{name}" for name in ("asset", "machine", "place", "cafe", "bistro", "venue", "hall")
}  # fmt: skip


def model_of(side, cqrs_id):
    return getattr(side, cqrs_id.title())


def rows(side):
    """Every row of the models as it travels, with its revision."""
    found = {}
    for cqrs_id, names in PARTS.items():
        for pk, *values in model_of(side, cqrs_id).objects.values_list("pk", "cqrs_revision", *names):
            found[cqrs_id, pk] = values
        if cqrs_id in ("machine", "cafe"):
            for pk, shelf in model_of(side, cqrs_id).shelves.through.objects.values_list(f"{cqrs_id}_id", "shelf_id"):
                found[cqrs_id, pk].append(shelf)
    return found


def changes(net):
    """The changes that the replica was told of; both sides are equal then."""
    found = []
    while net.pump():
        # What is raised when it is published is promised once more.
        found += [c for m in net.messages if m.cqrs_id in PARTS for c in json.loads(m.body)[1]["changes"]]
        net.deliver()
        net.messages.clear()
    assert rows(replica) == rows(master)
    return found


def heard(net):
    """The same in short: CQRS_ID, primary key, signal type."""
    return {(change["cqrs_id"], change["instance_pk"], change["signal_type"]) for change in changes(net)}


def insert(pk, *names, **values):
    """Rows of one key in these tables, by plain SQL."""
    for name in names:
        key = {"machine": "asset_ptr_id", "cafe": "place_ptr_id", "bistro": "cafe_ptr_id", "hall": "venue_ptr_id"}
        columns = [key.get(name, "id")]
        literals = [str(pk)]
        if name in ("place", "venue"):
            columns.append("name")
            literals.append("'n'")
        run(f"INSERT INTO {TABLES[name]} ({', '.join(columns)}) VALUES ({', '.join(literals)})")


def arrange(net):
    """Bring the rows to where each write begins: one of each kind, and a place that is nothing else."""
    for name in reversed(TABLES):
        for through in ("machine", "cafe"):
            if name == through:
                run(f"DELETE FROM {TABLES[name]}_shelves")
        run(f"DELETE FROM {TABLES[name]}")
    master.Shelf.objects.get_or_create(pk=1, name="s")
    insert(1, "asset", "machine")
    insert(2, "asset")
    insert(1, "place")
    insert(2, "place", "cafe")
    insert(3, "place", "cafe", "bistro")
    insert(1, "venue", "hall")
    insert(2, "venue")
    return changes(net)


__all__ = ["arrange", "changes", "connection", "heard", "insert", "model_of", "rows", "run"]
