"""``CQRS_QUERY_TIMEOUT``: a statement that takes too long is tried again, and logged without its parameters."""

from __future__ import annotations

import logging
import threading

import pytest
from django.db import connections, transaction

from django_cqrs_celery import intake
from django_cqrs_celery.models import DeadLetter
from tests import conftest, routing
from tests.master_app import models as master
from tests.replica_app import models as replica


@pytest.mark.parametrize("engine_name", ["postgresql", "mariadb"])
def test_locked_row_is_tried_again_and_logged(transactional_db, net, settings, caplog, engine_name):
    conftest.use_pair(engine_name, engine_name)
    author = master.Author.objects.create(name="a")
    net.run()
    author.name = "secret name"
    author.save()
    net.pump()
    settings.CQRS = {
        **settings.CQRS,
        "replica": {"CQRS_QUERY_TIMEOUT": 200, "CQRS_LOG_TIMED_OUT_QUERIES": True, "CQRS_QUERY_LOGGER": "too.long"},
    }
    locked, release = threading.Event(), threading.Event()

    def hold():
        using = routing.current["replica"]
        with transaction.atomic(using=using):
            list(replica.Author.objects.select_for_update().filter(pk=author.pk))
            locked.set()
            release.wait(30)
        connections[using].close()

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert locked.wait(30)
        with caplog.at_level(logging.ERROR, logger="too.long"):
            answer = intake.take([net.messages[0].body])
        assert answer.again is not None
    finally:
        release.set()
        holder.join(30)
    logged = [record.getMessage() for record in caplog.records if record.name == "too.long"]
    assert len(logged) == 1
    assert "replica_app_author" in logged[0]
    assert "secret" not in logged[0]
    assert not DeadLetter.objects.exists()
    net.deliver()
    assert replica.Author.objects.get().name == "secret name"
