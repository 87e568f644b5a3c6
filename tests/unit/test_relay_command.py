"""``cqrs_relay --loop`` goes on, whatever happens to one round."""

from __future__ import annotations

import logging
import threading

import pytest
from django.db import OperationalError

from django_cqrs_celery import dispatcher, outbox, retries
from django_cqrs_celery.exceptions import PublishError
from django_cqrs_celery.management.commands.cqrs_relay import Command


@pytest.mark.parametrize(
    ("error", "level"),
    [(PublishError("away"), "WARNING"), (OperationalError("away"), "WARNING"), (RuntimeError("secret"), "ERROR")],
)
def test_goes_on_after_an_error(monkeypatch, caplog, error, level):
    rounds, stop = [], threading.Event()

    def publish_once(using, publisher):
        rounds.append(using)
        if len(rounds) < 3:
            raise error
        stop.set()
        return dispatcher.Published(claimed=1)

    monkeypatch.setattr(outbox, "aliases", lambda: ["default"])
    monkeypatch.setattr(dispatcher, "publish_once", publish_once)
    monkeypatch.setattr(retries, "backoff", lambda failures: 0.001)
    with caplog.at_level(logging.WARNING, logger="django_cqrs_celery.relay"):
        Command()._stay(0.01, stop)
    assert len(rounds) == 3
    assert [record.levelname for record in caplog.records] == [level]
    assert "secret" not in caplog.text
