"""What tests of writes share: the table of one master model, past Django, and what its replica is told."""

from __future__ import annotations

import json

from django.db import connections

from tests import routing
from tests.master_app import models as master
from tests.replica_app import models as replica

TABLE = "master_app_stock"
NOW = "CURRENT_TIMESTAMP"


def connection():
    return connections[routing.current["master"]]


def run(sql):
    with connection().cursor() as cursor:
        cursor.execute(sql)


def heard(net):
    """What the replica was told: signal type, primary key and revision of each change; both sides are equal then."""
    net.pump()
    changes = [change for message in net.messages for change in json.loads(message.body)[1]["changes"]]
    net.deliver()
    net.messages.clear()
    columns = ("pk", "name", "amount", "shelf", "cqrs_revision")
    assert list(replica.Stock.objects.order_by("pk").values_list(*columns)) == list(
        master.Stock.objects.order_by("pk").values_list(*columns)
    )
    return sorted((c["signal_type"], c["instance_pk"], c["instance_data"]["cqrs_revision"]) for c in changes)


def on_conflict(update):
    if connection().vendor == "mysql":
        return f"ON DUPLICATE KEY UPDATE {update}"
    return f"ON CONFLICT (id) DO UPDATE SET {update}"
