"""Django signals that the project sends."""

from __future__ import annotations

from django.dispatch import Signal

#: Sent by ``Model.cqrs.bulk_create`` after its rows are written: ``instances``, ``using``.
post_bulk_create = Signal()
#: Sent by ``Model.cqrs.bulk_update`` after its rows are written: ``instances``, ``using``.
post_update = Signal()

#: Sent when a model joins a registry: ``sender`` is the model class.
master_registered = Signal()
replica_registered = Signal()

#: Sent by ``instance.cqrs_sync`` and the admin action: ``instances``, ``using``, ``queue``.
sync_requested = Signal()
#: Sent after the commit of a save without an outbox row: ``row`` is the unsaved outbox row, ``using`` its alias.
unpromised_committed = Signal()
#: Sent after a transaction that wrote outbox rows has committed: ``using`` is the database alias.
outbox_committed = Signal(use_caching=True)

#: Sent by the querysets of master models before ``bulk_create``: ``instances``, ``using``, ``conflicts``.
rows_creating = Signal()
#: Sent by the querysets of master models around a bulk write: ``queryset``, ``values``, ``using``.
#: A receiver may answer with a function that does the update, or a context manager around the delete.
rows_updating = Signal()
rows_deleting = Signal()
