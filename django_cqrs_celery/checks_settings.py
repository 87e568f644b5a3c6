"""What can be wrong with the ``CQRS`` settings; ``checks`` reports it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning

from django_cqrs_celery import conf, syncing, topology
from django_cqrs_celery.constants import TASK_SYNC
from django_cqrs_celery.exceptions import ConfigurationError
from django_cqrs_celery.registries import MasterRegistry, ReplicaRegistry

PARTS = ("master", "replica")
#: What Celery calls the default queue of an app that has not named one.
_SHARED_QUEUE = "celery"

_BROKER = "The broker is the Celery app's: write it into its broker_url (CELERY_BROKER_URL) and delete the key here."
#: Settings of django-cqrs that have no counterpart of the same name, and where each has gone.
MOVED = {
    "transport": "Celery is the transport: choose the broker by the scheme of broker_url (CELERY_BROKER_URL)"
    " and delete the key here.",
    **dict.fromkeys(("url", "host", "port", "user", "password"), _BROKER),
    "consumer_prefetch_count": "Write it as CQRS['replica']['prefetch'] and delete the key here.",
    "delay_queue_max_size": "It has no counterpart: changes that are to be tried again wait in the dead-letter table,"
    " which has no limit. Delete the key.",
}


def _error(number: str, message: str, hint: str) -> Error:
    return Error(message, hint=hint, id=f"django_cqrs_celery.{number}")


def _warning(number: str, message: str, hint: str) -> Warning:
    return Warning(message, hint=hint, id=f"django_cqrs_celery.{number}")


def problems() -> Iterator[CheckMessage]:
    """Everything that is wrong with the settings."""
    if not hasattr(settings, "CQRS"):
        yield _warning(
            "W001",
            "The setting CQRS is missing; every setting of replication has its default.",
            "Write CQRS = {…} into the settings, or CQRS = {} where the defaults are meant.",
        )
    elif not isinstance(settings.CQRS, Mapping):
        yield _error(
            "E002",
            f"The setting CQRS is {type(settings.CQRS).__name__}, expected a dict; it is ignored as it is.",
            "Write CQRS = {'queue': …, 'master': {…}, 'replica': {…}}.",
        )
    else:
        yield from _keys("", settings.CQRS)
        for part in PARTS:
            if part in settings.CQRS:
                yield from _part(part, settings.CQRS[part])
        yield from _values()
        yield from _queues()
        yield from _exchanges()
        yield from _lifetimes()
    yield from _missing_queue()
    yield from _celery()


# --- keys and values -----------------------------------------------------------------------------------------------


def _part(part: str, value: Any) -> Iterator[CheckMessage]:
    if isinstance(value, Mapping):
        yield from _keys(part, value)
    else:
        yield _error(
            "E003",
            f"CQRS['{part}'] is {type(value).__name__}, expected a dict; it is ignored as it is.",
            f"Write CQRS['{part}'] = {{…}}, or leave it out.",
        )


def _path(section: str, name: Any) -> str:
    return f"CQRS['{section}'][{name!r}]" if section else f"CQRS[{name!r}]"


def _names(section: str) -> list[str]:
    names = [setting.name for setting in conf.SETTINGS if setting.section == section]
    return names if section else [*names, *PARTS]


def _keys(section: str, part: Mapping[Any, Any]) -> Iterator[CheckMessage]:
    known = _names(section)
    for name in part:
        if name in known:
            continue
        if name in MOVED:
            yield _warning("W006", f"{_path(section, name)} is a setting of django-cqrs; it is ignored.", MOVED[name])
        else:
            yield _error("E004", f"{_path(section, name)} is no setting; it is ignored.", _suggestion(section, name))


def _suggestion(section: str, name: Any) -> str:
    elsewhere = [setting.path for setting in conf.SETTINGS if setting.name == name]
    if elsewhere:
        return f"It belongs to {' or '.join(elsewhere)}: move it there."
    known = {word.lower(): word for word in _names(section)}
    near = difflib.get_close_matches(str(name).lower(), known, n=1)
    if near:
        return f"Did you mean {_path(section, known[near[0]])}?"
    others = {setting.name.lower(): setting.path for setting in conf.SETTINGS}
    near = difflib.get_close_matches(str(name).lower(), others, n=1)
    if near:
        return f"Did you mean {others[near[0]]}?"
    return f"Delete it. What can be set here: {', '.join(sorted(known.values()))}."


def _problem(setting: conf.Setting[Any]) -> str | None:
    try:
        return setting.problem()
    except Exception as error:  # a dotted path runs the module that it names
        return f"{setting.path} is {setting.raw()!r}, which cannot be imported: {type(error).__name__}: {error}"


def _values() -> Iterator[CheckMessage]:
    for setting in conf.SETTINGS:
        problem = _problem(setting)
        if problem:
            default = "Leave it out for none." if setting.default is None else f"The default is {setting.default!r}."
            yield _error("E005", problem, f"{setting.doc} {default}")


# --- values that do not go together --------------------------------------------------------------------------------


def _usable(setting: conf.Setting[Any]) -> Any:
    """The value of a setting, or its default where the value is of a wrong type (reported already)."""
    return setting.default if _problem(setting) else setting.raw()


def _missing_queue() -> Iterator[CheckMessage]:
    if ReplicaRegistry.models and conf.queue.raw() is None:
        names = ", ".join(sorted(ReplicaRegistry.models))
        yield _error(
            "E007",
            f"CQRS['queue'] is not set, but this service has replica models ({names}); nothing reaches them.",
            "Set CQRS['queue'] to a name that no other replica service has.",
        )


def _queues() -> Iterator[CheckMessage]:
    own, master, parked = _usable(conf.queue), _usable(conf.master_queue), _usable(conf.dead_letter_queue)
    replicas = list(_usable(conf.replicas))
    uses = {
        conf.queue.path: [own],
        conf.master_queue.path: [master],
        conf.dead_letter_queue.path: [parked],
        conf.replicas.path: replicas,
        conf.legacy_queue.path: [_usable(conf.legacy_queue)],
        conf.legacy_dead_letter_queue.path: [_usable(conf.legacy_dead_letter_queue)],
    }
    paths = list(uses)
    for position, path in enumerate(paths):
        for other in paths[position + 1 :]:
            shared = sorted({name for name in uses[path] if name and name in uses[other]})
            if shared and {path, other} != {conf.queue.path, conf.replicas.path}:
                yield _error(
                    "E008",
                    f"{path} and {other} name the same queue: {', '.join(shared)}.",
                    "Give each purpose a queue of its own.",
                )
    if own and own in replicas:
        yield _error(
            "E009",
            f"CQRS['master']['replicas'] lists {own}, the queue of this service itself (CQRS['queue']).",
            "List the queues of other services only; the worker of this one declares its own queue.",
        )


def _exchanges() -> Iterator[CheckMessage]:
    own = _usable(conf.exchange)
    sides: list[tuple[conf.Setting[Any], str]] = [
        (conf.legacy_exchange, "django-cqrs replicas on it would get Celery's messages and drop them"),
    ]
    if _usable(conf.legacy_queue) is not None:
        sides.append((conf.replica_legacy_exchange, "this service's queue on it would get what it cannot read"))
    for setting, why in sides:
        if _usable(setting) == own:
            yield _error(
                "E070",
                f"{setting.path} and {conf.exchange.path} are the same exchange, {own!r}: {why}.",
                f"Give {conf.exchange.path} a name of its own, the same one in all services that have moved.",
            )


def _lifetimes() -> Iterator[CheckMessage]:
    pairs = (
        (conf.tombstone_ttl, conf.message_ttl, "a message"),
        (conf.replica_tombstone_ttl, conf.dead_message_ttl, "a dead letter"),
    )
    for tombstone, other, what in pairs:
        seconds, longest = _usable(tombstone), _usable(other)
        if longest is None or longest > seconds:
            lives = "for ever" if longest is None else f"{longest} seconds"
            yield _warning(
                "W010",
                f"{tombstone.path} is {seconds} seconds, but {what} may live {lives} ({other.path}):"
                " an old change could bring a deleted row back.",
                f"Raise {tombstone.path} above {other.path}, or lower {other.path}.",
            )


def _celery() -> Iterator[CheckMessage]:
    try:
        app = topology.celery_app()
    except ConfigurationError as error:
        yield _warning(
            "W011",
            f"No Celery app was found, so nothing can be published or applied. {error}",
            "Write celery.py as Celery's guide for Django shows it, and import its app in the project's __init__.py.",
        )
        return
    if MasterRegistry.models and not _usable(conf.master_queue) and app.conf.task_default_queue == _SHARED_QUEUE:
        yield _warning(
            "W013",
            f"The master's own tasks go to Celery's default queue, {_SHARED_QUEUE!r}, which every other service on this"
            " broker shares that names none either: its workers would take them.",
            "Give the service a queue of its own: CELERY_TASK_DEFAULT_QUEUE, or CQRS['master']['queue'].",
        )
    yield from _beat(app.conf.beat_schedule or {})


def _beat(entries: Mapping[str, Any]) -> Iterator[CheckMessage]:
    """Entries of beat that start a sync which would be refused every time."""
    for name, entry in entries.items():
        problem = None
        if isinstance(entry, Mapping) and entry.get("task") == TASK_SYNC and MasterRegistry.models:
            problem = syncing.problem_of(entry.get("kwargs") or {})
        if problem:
            yield _error(
                "E012",
                f"The entry {name!r} of beat's schedule starts a sync that cannot be done. {problem}",
                "Correct its kwargs; the reference of tasks lists what cqrs_sync takes.",
            )
