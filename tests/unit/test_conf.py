"""Settings: each has a default that it accepts itself, is read when called, and says what is wrong with a value."""

from __future__ import annotations

import pytest

from django_cqrs_celery import conf
from django_cqrs_celery.exceptions import ConfigurationError

NAMES = {name: value for name, value in vars(conf).items() if isinstance(value, conf.Setting)}


def example(*args, **kwargs):
    return args, kwargs


def with_value(setting, value):
    return {setting.section: {setting.name: value}} if setting.section else {setting.name: value}


def test_every_setting_is_listed_once():
    assert sorted(map(id, conf.SETTINGS)) == sorted(map(id, NAMES.values()))
    paths = [setting.path for setting in conf.SETTINGS]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize("setting", NAMES.values(), ids=NAMES)
def test_default(settings, setting):
    del settings.CQRS
    assert setting() == setting.default
    assert setting.problem() is None and setting.accepts(setting.default)
    assert setting.doc.endswith(".") and setting.expects


@pytest.mark.parametrize("setting", NAMES.values(), ids=NAMES)
def test_a_value_of_no_use(settings, setting):
    wrong = object()
    settings.CQRS = with_value(setting, wrong)
    assert setting.problem() == f"{setting.path} is {wrong!r}, expected {setting.expects}."
    with pytest.raises(ConfigurationError) as caught:
        setting()
    assert str(caught.value) == setting.problem()


@pytest.mark.parametrize("cqrs", [None, [], "text", 5, {"master": None}, {"master": []}, {"master": 5}])
def test_what_is_no_dict_counts_as_missing(settings, cqrs):
    settings.CQRS = cqrs
    assert conf.exchange() == "cqrs" and conf.dispatch() == "background"


def test_read_when_called_and_never_written(settings):
    settings.CQRS = cqrs = {}
    assert conf.exchange() == "cqrs"
    settings.CQRS = {"exchange": "shop"}
    assert conf.exchange() == "shop"
    assert cqrs == {}


@pytest.mark.parametrize(
    ("setting", "good", "bad"),
    [
        (conf.queue, [None, "q"], ["", 5, b"q", ["q"]]),
        (conf.exchange, ["e"], ["", None, 5]),
        (conf.queue_type, ["quorum", "classic"], ["Quorum", "", None, 5]),
        (conf.auto_update_fields, [True, False], [0, 1, None, "yes"]),
        (conf.message_ttl, [None, 1, 10**9], [0, -1, 1.5, "60", True]),
        (conf.dispatch, ["background", "on_commit", "relay"], ["now", None, True]),
        (conf.replicas, [[], (), ["a", "b"]], ["a", None, [""], [5], {"a": 1}, {"a"}]),
        (conf.message_max_changes, [1, 500], [0, -5, 1.0, None, True, "1"]),
        (conf.gather_seconds, [0.001, 1], [0, -1, None, "1", True]),
        (conf.max_retries, [None, 0, 30], [-1, 1.5, True, "3"]),
        (conf.retry_delay, [0.5, 2], [0, -2, None, "2", False]),
        (conf.dead_message_ttl, [None, 5], [0, -1, "5"]),
        (conf.query_timeout, [0, 100], [-1, None, 1.5, True]),
        (conf.log_timed_out_queries, [True, False], [None, 1]),
        (conf.query_logger, ["a.b"], ["", None]),
        (conf.tombstone_ttl, [1], [None, 0]),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_accepted_and_refused(settings, setting, good, bad):
    for value in good:
        settings.CQRS = with_value(setting, value)
        assert setting() == value and setting.problem() is None, value
    for value in bad:
        settings.CQRS = with_value(setting, value)
        with pytest.raises(ConfigurationError):
            setting()
        assert setting.problem(), value


@pytest.mark.parametrize("setting", [conf.correlation_function, conf.meta_function])
def test_functions(settings, setting):
    settings.CQRS = {}
    assert conf.call(setting, 1, two=2) is None
    for value in (example, f"{__name__}.example"):
        settings.CQRS = with_value(setting, value)
        assert conf.call(setting, 1, two=2) == ((1,), {"two": 2})
    for value in ("no.such.module.function", f"{__name__}.nothing", "example", "", 5, f"{__name__}.NAMES"):
        settings.CQRS = with_value(setting, value)
        with pytest.raises(ConfigurationError, match="dotted path"):
            conf.call(setting)


def test_dead_letter_queue_name(settings):
    settings.CQRS = {"queue": "stock"}
    assert conf.dead_letter_queue_name() == "dead_letter_stock"
    settings.CQRS = {"queue": "stock", "replica": {"dead_letter_queue": "lost"}}
    assert conf.dead_letter_queue_name() == "lost"
