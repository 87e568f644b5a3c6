"""Give replica models hooks for the time of a test, so that changes take the way of hooks."""

from __future__ import annotations

from django_cqrs_celery import applier
from django_cqrs_celery.mixins import ReplicaMixin

WAYS = ("sets", "hooks")


def take_way(way, monkeypatch, *models):
    """Send the changes of these models set by set, or one by one through hooks of their own."""
    if way == "hooks":
        for model in models:
            _add_hooks(model, monkeypatch)
    assert all(applier.is_plain(model) is (way == "sets") for model in models)


def _add_hooks(model, monkeypatch):
    def cqrs_create(cls, sync, mapped_data, previous_data=None, meta=None):
        return super(model, cls).cqrs_create(sync, mapped_data, previous_data=previous_data, meta=meta)

    def cqrs_update(self, sync, mapped_data, previous_data=None, meta=None):
        return ReplicaMixin.cqrs_update(self, sync, mapped_data, previous_data=previous_data, meta=meta)

    monkeypatch.setattr(model, "cqrs_create", classmethod(cqrs_create), raising=False)
    monkeypatch.setattr(model, "cqrs_update", cqrs_update, raising=False)
