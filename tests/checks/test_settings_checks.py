"""Each outcome of each check of the settings."""

from __future__ import annotations

import pytest
from django.core.checks import ERROR, WARNING
from django.db import models

from django_cqrs_celery import topology
from django_cqrs_celery.constants import TASK_SYNC
from django_cqrs_celery.exceptions import ConfigurationError
from django_cqrs_celery.mixins import MasterMixin, ReplicaMixin

GOOD = {
    "queue": "stock",
    "exchange": "shop",
    "queue_type": "classic",
    "master": {"replicas": ["search"], "queue": "shop_master", "dispatch": "relay", "CQRS_MESSAGE_TTL": 60},
    "replica": {"prefetch": 10, "dead_letter_queue": "stock_dead", "CQRS_MAX_RETRIES": None},
}


@pytest.mark.parametrize("cqrs", [{}, GOOD, {"queue": "q", "master": {}, "replica": {}}])
def test_good_settings(check, cqrs):
    assert check(cqrs) == {}


def test_missing(check, settings):
    del settings.CQRS
    found = check()
    assert set(found) == {"W001"} and found["W001"].level == WARNING


@pytest.mark.parametrize("value", [None, [], "cqrs", 5])
def test_not_a_dict(check, settings, value):
    settings.CQRS = value
    found = check()
    assert set(found) == {"E002"} and type(value).__name__ in found["E002"].msg


@pytest.mark.parametrize("part", ["master", "replica"])
@pytest.mark.parametrize("value", [None, [], "text"])
def test_part_is_not_a_dict(check, part, value):
    found = check({part: value})
    assert set(found) == {"E003"} and f"CQRS['{part}']" in found["E003"].msg


@pytest.mark.parametrize(
    ("cqrs", "name", "hint"),
    [
        ({"que": "x"}, "CQRS['que']", "Did you mean CQRS['queue']?"),
        ({"Exchange": "x"}, "CQRS['Exchange']", "Did you mean CQRS['exchange']?"),
        ({"masters": {}}, "CQRS['masters']", "Did you mean CQRS['master']?"),
        ({"master": {"dispath": "relay"}}, "CQRS['master']['dispath']", "Did you mean CQRS['master']['dispatch']?"),
        (
            {"replica": {"cqrs_max_retry": 3}}, "CQRS['replica']['cqrs_max_retry']",
            "Did you mean CQRS['replica']['CQRS_MAX_RETRIES']?",
        ),
        ({"prefetch": 3}, "CQRS['prefetch']", "It belongs to CQRS['replica']['prefetch']: move it there."),
        ({"prefetsch": 3}, "CQRS['prefetsch']", "Did you mean CQRS['replica']['prefetch']?"),
        ({"replica": {"zzz": 3}}, "CQRS['replica']['zzz']", "Delete it. What can be set here: CQRS_LOG_TIMED_OUT"),
        ({5: 3}, "CQRS[5]", "Delete it."),
    ],
)  # fmt: skip
def test_unknown_key(check, cqrs, name, hint):
    found = check(cqrs)
    assert set(found) == {"E004"} and found["E004"].level == ERROR
    assert found["E004"].msg == f"{name} is no setting; it is ignored."
    assert found["E004"].hint.startswith(hint)


@pytest.mark.parametrize(
    ("cqrs", "path"),
    [
        ({"queue": 5}, "CQRS['queue']"),
        ({"queue": ""}, "CQRS['queue']"),
        ({"queue_type": "lazy"}, "CQRS['queue_type']"),
        ({"master": {"dispatch": "now"}}, "CQRS['master']['dispatch']"),
        ({"master": {"CQRS_AUTO_UPDATE_FIELDS": 1}}, "CQRS['master']['CQRS_AUTO_UPDATE_FIELDS']"),
        ({"master": {"CQRS_AUTO_UPDATE_FIELDS": 0}}, "CQRS['master']['CQRS_AUTO_UPDATE_FIELDS']"),
        ({"master": {"replicas": "search"}}, "CQRS['master']['replicas']"),
        ({"master": {"meta_function": "no.such.function"}}, "CQRS['master']['meta_function']"),
        ({"master": {"outbox_batch": True}}, "CQRS['master']['outbox_batch']"),
        ({"replica": {"CQRS_MAX_RETRIES": -1}}, "CQRS['replica']['CQRS_MAX_RETRIES']"),
        ({"replica": {"CQRS_RETRY_DELAY": "2"}}, "CQRS['replica']['CQRS_RETRY_DELAY']"),
        ({"replica": {"batch_size": 0}}, "CQRS['replica']['batch_size']"),
    ],
)
def test_wrong_value(check, cqrs, path):
    found = check(cqrs)
    assert set(found) == {"E005"}
    assert found["E005"].msg.startswith(f"{path} is ") and "expected" in found["E005"].msg


def test_a_function_whose_module_fails(check, tmp_path, monkeypatch):
    (tmp_path / "broken_functions.py").write_text("raise RuntimeError('at import')")
    monkeypatch.syspath_prepend(tmp_path)
    found = check({"master": {"correlation_function": "broken_functions.f"}})
    assert set(found) == {"E005"} and "RuntimeError: at import" in found["E005"].msg


@pytest.mark.parametrize("name", ["transport", "url", "host", "port", "user", "password"])
def test_broker_settings_have_moved(check, name):
    found = check({name: "x"})
    assert set(found) == {"W006"} and "CELERY_BROKER_URL" in found["W006"].hint
    assert found["W006"].level == WARNING


@pytest.mark.parametrize("cqrs", [{"consumer_prefetch_count": 9}, {"replica": {"consumer_prefetch_count": 9}}])
def test_prefetch_has_moved(check, cqrs):
    assert "CQRS['replica']['prefetch']" in check(cqrs)["W006"].hint


def test_delay_queue_is_gone(check):
    assert "no counterpart" in check({"replica": {"delay_queue_max_size": 9}})["W006"].hint


def declare_replica():
    class Thing(ReplicaMixin):
        CQRS_ID = "thing"
        id = models.BigIntegerField(primary_key=True)

        class Meta:
            app_label = "replica_app"


@pytest.mark.parametrize("cqrs", [{}, {"queue": None}])
def test_replica_without_a_queue(check, cqrs):
    declare_replica()
    found = check(cqrs)
    assert set(found) == {"E007"} and "thing" in found["E007"].msg


def test_replica_without_any_settings(check, settings):
    declare_replica()
    del settings.CQRS
    assert set(check()) == {"W001", "E007"}


@pytest.mark.parametrize(
    ("cqrs", "paths"),
    [
        ({"queue": "q", "master": {"queue": "q"}}, ("CQRS['queue']", "CQRS['master']['queue']")),
        ({"queue": "q", "replica": {"dead_letter_queue": "q"}}, ("CQRS['queue']", "['dead_letter_queue']")),
        ({"master": {"queue": "q", "replicas": ["p", "q"]}}, ("CQRS['master']['queue']", "['replicas']")),
        ({"master": {"replicas": ["q"]}, "replica": {"dead_letter_queue": "q"}}, ("['replicas']", "_letter_queue']")),
    ],
)
def test_one_queue_for_two_purposes(check, cqrs, paths):
    found = check(cqrs)
    assert set(found) == {"E008"} and all(path in found["E008"].msg for path in paths)


def test_own_queue_among_the_replicas(check):
    found = check({"queue": "q", "master": {"replicas": ["p", "q"]}})
    assert set(found) == {"E009"} and " q, the queue of this service" in found["E009"].msg


@pytest.mark.parametrize(
    "cqrs",
    [
        {"master": {"legacy_exchange": "cqrs"}},
        {"exchange": "x", "replica": {"legacy_queue": "old", "legacy_exchange": "x"}},
        {"replica": {"legacy_queue": "old"}},
    ],
)
def test_a_bridge_to_the_own_exchange(check, cqrs):
    found = check(cqrs)
    assert set(found) == {"E070"} and "same exchange" in found["E070"].msg


def test_a_bridge_to_another_exchange(check):
    assert check({"exchange": "x", "master": {"legacy_exchange": "y"}, "replica": {"legacy_queue": "old"}}) == {}
    assert check({"replica": {"legacy_exchange": "cqrs"}}) == {}  # not in use without a queue


def test_an_old_queue_of_the_new_name(check):
    assert set(check({"exchange": "x", "queue": "q", "replica": {"legacy_queue": "q"}})) == {"E008"}


@pytest.mark.parametrize(
    "cqrs",
    [
        {"master": {"tombstone_ttl": 60, "CQRS_MESSAGE_TTL": 61}},
        {"master": {"CQRS_MESSAGE_TTL": None}},
        {"replica": {"tombstone_ttl": 60, "dead_message_ttl": 61}},
        {"replica": {"dead_message_ttl": None}},
    ],
)
def test_tombstones_that_live_too_short(check, cqrs):
    found = check(cqrs)
    assert set(found) == {"W010"} and found["W010"].level == WARNING


def test_tombstones_that_live_as_long(check):
    cqrs = {
        "master": {"tombstone_ttl": 60, "CQRS_MESSAGE_TTL": 60}, "replica": {"tombstone_ttl": 6, "dead_message_ttl": 6}
    }  # fmt: skip
    assert check(cqrs) == {}


def test_no_celery_app(check, monkeypatch):
    def none():
        raise ConfigurationError("The project has no Celery app.")

    monkeypatch.setattr(topology, "celery_app", none)
    found = check()
    assert set(found) == {"W011"} and found["W011"].level == WARNING


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"cqrs_id": "nobody"}, "nobody"),
        ({"mode": "half"}, "'half'"),
        ({"cqrs_id": "author", "filters": {"pk": 1}, "mode": "digest"}, "filter"),
        ({"cqrs_id": "author", "filters": {"nothing": 1}}, "nothing"),
        ({"filters": {"pk": 1}}, "CQRS_ID"),
        ({"cqrs_id": "author", "content": ["nothing"]}, "nothing"),
        ({"speed": 5}, "speed"),
    ],
)
def test_beat_starts_a_sync_that_cannot_be_done(check, kwargs, says):
    class Author(MasterMixin):
        CQRS_ID = "author"
        name = models.CharField(max_length=10)

        class Meta:
            app_label = "master_app"

    schedule = {"good": {"task": TASK_SYNC, "kwargs": {"cqrs_id": "author", "content": ["name"]}, "schedule": 5}}
    topology.celery_app().conf.beat_schedule = schedule
    assert check({}) == {}
    schedule["bad"] = {"task": TASK_SYNC, "kwargs": kwargs, "schedule": 5}
    found = check({})
    assert set(found) == {"E012"} and found["E012"].level == ERROR and says in found["E012"].msg


@pytest.mark.parametrize(
    ("default", "cqrs", "found"),
    [("celery", {}, {"W013"}), ("shop", {}, set()), ("celery", {"master": {"queue": "shop_master"}}, set())],
)
def test_tasks_in_a_queue_that_others_share(check, celery_app, default, cqrs, found):
    class Thing(MasterMixin):
        CQRS_ID = "thing"

        class Meta:
            app_label = "master_app"

    celery_app.conf.task_default_queue = default
    assert set(check({"queue": "q", **cqrs})) == found


def test_tasks_of_a_pure_replica(check, celery_app):
    celery_app.conf.task_default_queue = "celery"
    assert check({"queue": "q"}) == {}
