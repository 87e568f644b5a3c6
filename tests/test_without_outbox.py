"""``CQRS['master']['outbox'] = False``: saves are published from memory, and lost where the broker takes nothing."""

from __future__ import annotations

import logging

import pytest
from django.db import transaction

from django_cqrs_celery import modes
from django_cqrs_celery.models import OutboxMessage
from tests import routing, services
from tests.master_app import models as master
from tests.replica_app import models as replica


@pytest.fixture
def loose(net, settings, monkeypatch):
    settings.CQRS = {**settings.CQRS, "master": {"outbox": False, "dispatch": "on_commit"}}
    monkeypatch.setattr(modes._local, "publisher", net)
    monkeypatch.setattr(modes, "_breaker", modes._Breaker())
    return net


@pytest.mark.usefixtures("engine")
def test_saves_leave_no_outbox_row_and_arrive(loose):
    author = master.Author.objects.create(name="a")
    author.name = "b"
    author.save()
    assert not OutboxMessage.objects.exists()
    loose.deliver()
    assert replica.Author.objects.get().name == "b"
    pk = author.pk
    author.delete()
    assert OutboxMessage.objects.get().signal_type == "DELETE"
    again = master.Author.objects.create(pk=pk, name="c")
    assert again.cqrs_revision == 3
    loose.deliver()
    assert replica.Author.objects.get().name == "c"


@pytest.mark.usefixtures("engine")
def test_rollback_sends_nothing(loose):
    with pytest.raises(ValueError, match="no"), transaction.atomic(using=routing.current["master"]):
        master.Author.objects.create(name="a")
        raise ValueError("no")
    assert not loose.messages


def test_what_the_broker_does_not_take_is_lost_and_said(loose, caplog):
    loose.fails = True
    with caplog.at_level(logging.ERROR, logger="django_cqrs_celery.dispatcher"):
        master.Author.objects.create(name="a")
    loose.fails = False
    # Triggers that were there before the outbox was switched off write their rows until a migration removes them.
    kept = 1 if services.BY_TRIGGER else 0
    assert ("lost" in caplog.text, loose.pump()) == (not kept, kept)
