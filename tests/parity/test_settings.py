"""The settings."""

from __future__ import annotations

import datetime
import logging
import threading

import pytest
from django.core.checks import run_checks
from django.db import connections, transaction
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from django_cqrs_celery import conf, dead_letters, intake, purging, topology
from django_cqrs_celery.dataclasses import dumps, encode_message
from django_cqrs_celery.exceptions import ConfigurationError
from django_cqrs_celery.mixins import RawReplicaMixin
from django_cqrs_celery.models import DeadLetter
from django_cqrs_celery.tasks import cqrs_apply
from tests import conftest, routing, services
from tests.parity.masters import models as master
from tests.parity.mixed import change, sent
from tests.parity.replicas import models as replica


def warnings(settings, **cqrs):
    """Ids and hints of the checks of these settings."""
    settings.CQRS = cqrs
    return {found.id.split(".")[1]: found.hint for found in run_checks(tags=["django_cqrs_celery"])}


def fails(pk, retries=0):
    """A change of which the hook fails."""
    return change("parity.vehicle", pk, 0, data={"id": pk}, retries=retries)


# --- at the top ----------------------------------------------------------------------------------------------------


def test_queue(settings):
    """queue (a replica needs it)"""
    assert "E007" in warnings(settings)
    assert "E007" not in warnings(settings, queue="q")
    assert conf.queue() == "q"
    settings.CQRS = {}
    with pytest.raises(ConfigurationError, match="CQRS\\['queue'\\] is not set"):
        topology.declare_own_queue(None)


def test_exchange(settings):
    """exchange (default cqrs)"""
    settings.CQRS = {}
    assert topology.exchange().name == "cqrs"
    settings.CQRS = {"exchange": "other"}
    assert topology.exchange().name == "other"


@pytest.mark.parametrize("name", ["transport", "url", "host", "port", "user", "password", "consumer_prefetch_count"])
def test_moved(settings, name):
    """transport, url, host, port, user, password, consumer_prefetch_count: a warning says where each has moved"""
    found = warnings(settings, queue="q", **{name: "x"})
    assert ("prefetch" if name == "consumer_prefetch_count" else "broker_url") in found["W006"]
    assert not any(number.startswith("E") for number in found)


# --- master --------------------------------------------------------------------------------------------------------


def test_auto_update_fields(net, cqrs):
    """CQRS_AUTO_UPDATE_FIELDS (False)"""
    assert conf.auto_update_fields() is False
    account = master.Account.objects.create(name="a")
    net.run()
    account.save(update_fields=["name"])
    assert len(sent(net)) == (1 if services.BY_TRIGGER else 0)  # triggers capture every save
    net.messages.clear()
    cqrs(master={"CQRS_AUTO_UPDATE_FIELDS": True})
    account.save(update_fields=["name"])
    assert len(sent(net)) == 1


def test_message_ttl(net, cqrs):
    """CQRS_MESSAGE_TTL (86400 s, None = for ever)"""
    for seconds in (86400, 60, None):
        if seconds != 86400:
            cqrs(master={"CQRS_MESSAGE_TTL": seconds})
        master.Account.objects.create(name="a")
        expires = sent(net)[-1]["expires"]
        if seconds is None:
            assert expires is None
        else:
            rest = (parse_datetime(expires) - timezone.now()).total_seconds()
            assert seconds - 60 < rest <= seconds
    past = (timezone.now() - datetime.timedelta(seconds=1)).isoformat()
    cqrs_apply(changes=[change("parity.vehicle", 9, 0, data={"id": 9, "name": "n"}, expires=past)])
    assert DeadLetter.objects.get().error_class.endswith("ExpiredChange")


def correlate(signal_type, cqrs_id, instance_pk, queue):
    return f"{signal_type}/{cqrs_id}/{instance_pk}/{queue}"


@pytest.mark.parametrize("function", [correlate, "tests.parity.test_settings.correlate"], ids=["callable", "path"])
def test_correlation_function(net, cqrs, function):
    """correlation_function(signal_type, cqrs_id, instance_pk, queue)"""
    cqrs(master={"correlation_function": function})
    account = master.Account.objects.create(name="a")
    account.cqrs_sync(queue="one")
    assert [change["correlation_id"] for change in sent(net)] == [
        f"SAVE/parity.account/{account.pk}/None", f"SYNC/parity.account/{account.pk}/one",
    ]  # fmt: skip


def describe(obj, **kwargs):
    return {"name": obj.last_name, "keys": sorted(kwargs), "image": kwargs["instance_data"]["full_name"]}


@pytest.mark.parametrize("function", [describe, "tests.parity.test_settings.describe"], ids=["callable", "path"])
def test_meta_function(net, cqrs, function):
    """meta_function(obj=…, **kwargs)"""
    cqrs(master={"meta_function": function})
    master.Person.objects.create(first_name="Ada", last_name="L")
    assert sent(net)[0]["meta"] == {
        "name": "L", "keys": ["instance_data", "previous_data", "signal_type"], "image": "Ada L",
    }  # fmt: skip


# --- replica -------------------------------------------------------------------------------------------------------


def test_max_retries(net, cqrs):
    """CQRS_MAX_RETRIES (30; None = for ever, 0 = none)"""
    assert RawReplicaMixin.should_retry_cqrs(29) and not RawReplicaMixin.should_retry_cqrs(30)
    cqrs(replica={"CQRS_MAX_RETRIES": None})
    assert RawReplicaMixin.should_retry_cqrs(10**6)
    cqrs(replica={"CQRS_MAX_RETRIES": 0})
    assert not RawReplicaMixin.should_retry_cqrs(0)
    cqrs_apply(changes=[fails(1)])
    cqrs(replica={"CQRS_MAX_RETRIES": 2})
    cqrs_apply(changes=[fails(2, retries=1), fails(3, retries=2)])
    assert list(DeadLetter.objects.order_by("instance_pk").values_list("status", flat=True)) == [
        "dead", "pending", "dead",
    ]  # fmt: skip


def test_retry_delay(net, cqrs):
    """CQRS_RETRY_DELAY (2 s)"""
    assert RawReplicaMixin.get_cqrs_retry_delay(0) == 2
    cqrs(replica={"CQRS_RETRY_DELAY": 50})
    cqrs_apply(changes=[fails(1)])
    assert 40 < (DeadLetter.objects.get().next_retry_at - timezone.now()).total_seconds() <= 50


def test_dead_letter_queue(settings):
    """dead_letter_queue (dead_letter_<queue>)"""
    settings.CQRS = {"queue": "q"}
    assert conf.dead_letter_queue_name() == "dead_letter_q"
    settings.CQRS = {"queue": "q", "replica": {"dead_letter_queue": "d"}}
    assert conf.dead_letter_queue_name() == "d"


def test_dead_message_ttl(net, cqrs):
    """dead_message_ttl (864000 s, None = for ever)"""
    assert conf.dead_message_ttl() == 864000
    cqrs(replica={"CQRS_MAX_RETRIES": 0, "dead_message_ttl": None})
    cqrs_apply(changes=[fails(1)])
    long_ago = timezone.now() - datetime.timedelta(days=11)
    DeadLetter.objects.update(updated_at=long_ago, created_at=long_ago)
    purging.purge()
    assert DeadLetter.objects.exists()
    cqrs(replica={"dead_message_ttl": 864000})
    purging.purge()
    assert not DeadLetter.objects.exists()


def test_delay_queue_max_size(settings):
    """delay_queue_max_size (no counterpart)"""
    found = warnings(settings, queue="q", replica={"delay_queue_max_size": 1000})
    assert "no counterpart" in found["W006"]


_TIMEOUT = {
    "postgresql": "SHOW statement_timeout", "mysql": "SELECT @@SESSION.max_statement_time", "sqlite": "SELECT '0'",
}  # fmt: skip


def test_query_timeout(engine, cqrs, monkeypatch):
    """CQRS_QUERY_TIMEOUT (ms)

    It holds while changes are applied; afterwards the session has what it had before.
    """
    connection = connections[routing.current["replica"]]

    def limit():
        with connection.cursor() as cursor:
            cursor.execute(_TIMEOUT[connection.vendor])
            return str(cursor.fetchone()[0])

    before, within = limit(), []
    monkeypatch.setattr(replica.Person, "save", lambda self, **kwargs: within.append(limit()))
    cqrs(replica={"CQRS_QUERY_TIMEOUT": 5000})
    cqrs_apply(changes=[change("parity.person", 1, 0, data={"id": 1, "full_name": "n"})])
    assert within == [{"postgresql": "5s", "mysql": "5.0", "sqlite": "0"}[connection.vendor]]
    assert limit() == before


@pytest.fixture
def too_long(net, cqrs):
    """Apply a change whose row another transaction holds for longer than the timeout."""

    def run(**more):
        conftest.use_pair("postgresql", "postgresql")
        cqrs(replica={"CQRS_QUERY_TIMEOUT": 100, **more})
        cqrs_apply(changes=[change("parity.vehicle", 1, 0, data={"id": 1, "name": "a"})])
        held, release = threading.Event(), threading.Event()

        def hold():
            using = routing.current["replica"]
            with transaction.atomic(using=using):
                list(replica.Vehicle.objects.select_for_update())
                held.set()
                release.wait(30)
            connections[using].close()

        holder = threading.Thread(target=hold)
        holder.start()
        try:
            assert held.wait(30)
            text = dumps(change("parity.vehicle", 1, 1, data={"id": 1, "name": "secret"}))
            answer = intake.take([encode_message([text])])
        finally:
            release.set()
            holder.join(30)
        assert answer.again is not None and not DeadLetter.objects.exists()

    return run


@pytest.mark.parametrize("wanted", [True, False])
def test_log_timed_out_queries(too_long, caplog, wanted):
    """CQRS_LOG_TIMED_OUT_QUERIES"""
    with caplog.at_level(logging.ERROR, logger="django-cqrs-celery.queries"):
        too_long(CQRS_LOG_TIMED_OUT_QUERIES=wanted)
    said = [record.getMessage() for record in caplog.records if record.name == "django-cqrs-celery.queries"]
    assert len(said) == (1 if wanted else 0)
    assert all("parity_replicas_vehicle" in line and "secret" not in line for line in said)


def test_query_logger(too_long, caplog):
    """CQRS_QUERY_LOGGER"""
    with caplog.at_level(logging.ERROR, logger="mine"):
        too_long(CQRS_LOG_TIMED_OUT_QUERIES=True, CQRS_QUERY_LOGGER="mine")
    assert [record.name for record in caplog.records if record.levelno == logging.ERROR] == ["mine"]
    assert dead_letters.next_due_in(routing.current["replica"]) is None
