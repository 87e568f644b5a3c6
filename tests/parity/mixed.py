"""What the parity tests share."""

from __future__ import annotations

import json

from tests import routing


def sent(net):
    """The changes that are published and not yet delivered, as they travel."""
    net.pump()
    return [change for message in net.messages for change in json.loads(message.body)[1]["changes"]]


def master_alias():
    """The database of the master models."""
    return routing.current["master"]


def named(calls, name):
    """The calls of one hook, without its name."""
    return [call[1:] for call in calls if call[0] == name]


def change(cqrs_id, pk, revision, signal_type="SAVE", *, data=None, **keys):
    """A change as it travels."""
    stamps = {"cqrs_revision": revision, "cqrs_updated": "2026-01-31T12:00:00+00:00"}
    return {
        "signal_type": signal_type, "cqrs_id": cqrs_id, "instance_pk": pk, "instance_data": {**(data or {}), **stamps},
        **keys,
    }  # fmt: skip
