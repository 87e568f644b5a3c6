"""The ``CQRS`` settings: every setting once, with its type, default and meaning.

A setting is an object that is called: ``conf.exchange()``. It reads ``settings.CQRS`` at each call, so tests change it
with ``override_settings``; nothing is written back. ``SETTINGS`` lists them all, for the checks and the documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.conf import settings
from django.utils.module_loading import import_string

from django_cqrs_celery.exceptions import ConfigurationError

T = TypeVar("T")
SETTINGS: list[Setting[Any]] = []


def whole() -> Mapping[str, Any]:
    """``settings.CQRS`` as it is written; an empty mapping where it is missing or no mapping."""
    value = getattr(settings, "CQRS", None)
    # Every save asks, and of a dict Python knows it sooner than of a Mapping.
    return value if isinstance(value, (dict, Mapping)) else {}


@dataclass(frozen=True)
class Setting(Generic[T]):
    """One key of ``CQRS``, or of its ``master`` or ``replica`` part."""

    section: str
    name: str
    default: T
    expects: str
    accepts: Callable[[Any], bool]
    doc: str

    @property
    def path(self) -> str:
        """How the setting is written in Python: ``CQRS['master']['dispatch']``."""
        return f"CQRS['{self.section}']['{self.name}']" if self.section else f"CQRS['{self.name}']"

    def raw(self) -> Any:
        """What the project wrote, or the default."""
        part = whole()
        if self.section:
            part = part.get(self.section) or {}
        return part.get(self.name, self.default) if isinstance(part, (dict, Mapping)) else self.default

    def problem(self) -> str | None:
        """Why the written value cannot be used, or None."""
        value = self.raw()
        if value == self.default and type(value) is type(self.default):
            return None
        return None if self.accepts(value) else f"{self.path} is {value!r}, expected {self.expects}."

    def __call__(self) -> T:
        """The value. Raises ``ConfigurationError`` where it is not usable."""
        value = self.raw()
        if value is not self.default and not self.accepts(value):
            raise ConfigurationError(f"{self.path} is {value!r}, expected {self.expects}.")
        return value


def _setting(section: str, name: str, default: T, expects: str, accepts: Callable[[Any], bool], doc: str) -> Setting[T]:
    setting = Setting(section, name, default, expects, accepts, doc)
    SETTINGS.append(setting)
    return setting


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _positive(value: Any) -> bool:
    return _is_int(value) and value > 0


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _positive_number(value: Any) -> bool:
    return _number(value) and value > 0


def _count_or_none(value: Any) -> bool:
    return value is None or (_is_int(value) and value >= 0)


def _positive_or_none(value: Any) -> bool:
    return value is None or _positive(value)


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _text_or_none(value: Any) -> bool:
    return value is None or _text(value)


def _boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _function(value: Any) -> bool:
    if isinstance(value, str):
        try:
            value = import_string(value)
        except ImportError:
            return False
    return value is None or callable(value)


def _names(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(_text(name) for name in value)


def _queues(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_text(name) and _names(cqrs_ids) for name, cqrs_ids in value.items())
    return _names(value)


def _one_of(*words: str) -> Callable[[Any], bool]:
    return lambda value: value in words


queue: Setting[str | None] = _setting(
    "", "queue", None, "the name of a queue", _text_or_none,
    "Queue of this replica service. A service that has replica models needs it; a pure master leaves it out.",
)
exchange: Setting[str] = _setting(
    "", "exchange", "cqrs", "the name of an exchange", _text,
    "Topic exchange that masters publish to. All services of one system use the same name.",
)
queue_type: Setting[str] = _setting(
    "", "queue_type", "quorum", "'quorum' or 'classic'", _one_of("quorum", "classic"),
    "Type of the replica's queue and of its dead-letter queue on RabbitMQ. Other brokers ignore it.",
)

auto_update_fields: Setting[bool] = _setting(
    "master", "CQRS_AUTO_UPDATE_FIELDS", False, "True or False", _boolean,
    "Whether ``save(update_fields=[…])`` raises the revision and replicates when ``update_cqrs_fields`` is not given.",
)
message_ttl: Setting[int | None] = _setting(
    "master", "CQRS_MESSAGE_TTL", 86400, "a number of seconds, or None for ever", _positive_or_none,
    "Seconds after which a change that no replica has applied is set aside as an expired dead letter. None: never.",
)
correlation_function: Setting[Callable[..., str | None] | str | None] = _setting(
    "master", "correlation_function", None, "a callable or the dotted path of one", _function,
    "``f(signal_type, cqrs_id, instance_pk, queue)`` gives a change's correlation id; called in the saving thread.",
)
meta_function: Setting[Callable[..., Any] | str | None] = _setting(
    "master", "meta_function", None, "a callable or the dotted path of one", _function,
    "``f(obj=instance, **kwargs)`` gives the ``meta`` of a change; called in the saving thread.",
)


def has_functions() -> bool:
    """Whether a function of the settings has a say in each change; every save asks, so it looks once for both."""
    part = whole().get("master")
    return isinstance(part, (dict, Mapping)) and not (
        part.get(correlation_function.name) is None and part.get(meta_function.name) is None
    )


dispatch: Setting[str] = _setting(
    "master", "dispatch", "background", "'background', 'on_commit' or 'relay'",
    _one_of("background", "on_commit", "relay"),
    "Who publishes after a commit: a thread of the process, the saving thread itself, or a relay process.",
)
capture: Setting[str] = _setting(
    "master", "capture", "auto", "'auto', 'orm' or 'trigger'", _one_of("auto", "orm", "trigger"),
    "Who notices a change: Django's ORM in this process, or triggers in the database, which see every write, whoever "
    "makes it. ``'auto'``: triggers on PostgreSQL, the ORM elsewhere. A model's ``CQRS_CAPTURE`` says otherwise for "
    "itself. Takes effect with a migration; where the triggers are not there yet, the ORM does it.",
)
outbox: Setting[bool] = _setting(
    "master", "outbox", True, "True or False", _boolean,
    "Whether a save writes an outbox row. Without one it is published from memory after the commit: it costs an INSERT "
    "less, and is lost, until the row changes again or is synchronised, when the process dies or the broker is away "
    "just then. Deletes and bulk writes keep their outbox rows.",
)
replicas: Setting[Sequence[str] | Mapping[str, Sequence[str]]] = _setting(
    "master", "replicas", (), "a list of queue names, or a dict of queue names with lists of CQRS_IDs", _queues,
    "Queues of replicas that the master declares itself, so that changes made before a replica's first start wait for "
    "it. A list binds each queue to all models of the master; a dict says which CQRS_IDs each queue gets.",
)
legacy_exchange: Setting[str | None] = _setting(
    "master", "legacy_exchange", None, "the name of an exchange", _text_or_none,
    "Exchange of replicas that still run django-cqrs: every change is published there too, in the form that they read. "
    "It must not be the exchange of ``CQRS['exchange']``. None: there are none.",
)
master_queue: Setting[str | None] = _setting(
    "master", "queue", None, "the name of a queue", _text_or_none,
    "Celery queue for the master's own tasks (relay, sync, purge) and for what replicas answer to digests: the master "
    "runs a worker for it. None: the default queue of the Celery app.",
)
message_max_changes: Setting[int] = _setting(
    "master", "message_max_changes", 250, "a positive whole number", _positive,
    "Most changes that one message carries.",
)
message_max_bytes: Setting[int] = _setting(
    "master", "message_max_bytes", 262144, "a positive number of bytes", _positive,
    "Size at which a message is closed and the next one begun. A single larger change still goes, alone.",
)
gather_seconds: Setting[float] = _setting(
    "master", "gather_seconds", 0.025, "a positive number of seconds", _positive_number,
    "How long the background thread gathers changes while saves keep coming. A lone save is published at once.",
)
express: Setting[bool] = _setting(
    "master", "express", True, "True or False", _boolean,
    "Whether a copy of a lone change is sent past the replicas' queues, which saves it the wait for the broker's disk. "
    "On RabbitMQ alone; the change itself is published as ever.",
)
publish_timeout: Setting[float] = _setting(
    "master", "publish_timeout", 5, "a positive number of seconds", _positive_number,
    "How long to wait for the broker: to connect, to write, and to confirm one message.",
)
outbox_lease: Setting[int] = _setting(
    "master", "outbox_lease", 60, "a positive number of seconds", _positive,
    "How long a publisher may hold the outbox rows that it has claimed. When it dies, others take them after that.",
)
outbox_batch: Setting[int] = _setting(
    "master", "outbox_batch", 1000, "a positive whole number", _positive,
    "Most outbox rows that a publisher claims at once.",
)
tombstone_ttl: Setting[int] = _setting(
    "master", "tombstone_ttl", 30 * 86400, "a positive number of seconds", _positive,
    "How long the master remembers the last revision of a deleted row. Longer than any message can live.",
)
max_delete_share: Setting[float] = _setting(
    "master", "max_delete_share", 0.25, "a number from 0 to 1", lambda v: _number(v) and 0 <= v <= 1,
    "Largest share of a replica's rows that a digest round may delete there without a person's word. More is reported, "
    "and ``cqrs_sync --mode digest --max-deletes 1`` lets it pass.",
)
sync_rate: Setting[int | None] = _setting(
    "master", "sync_rate", None, "a number of rows, or None", _positive_or_none,
    "Most rows a second that a sync goes through, where its caller does not say. None: a digest rests three "
    "times as long as it works.",
)

max_retries: Setting[int | None] = _setting(
    "replica", "CQRS_MAX_RETRIES", 30, "a number of retries, 0 for none, None for ever", _count_or_none,
    "How often a change that failed is tried again before it is marked dead.",
)
retry_delay: Setting[float] = _setting(
    "replica", "CQRS_RETRY_DELAY", 2, "a positive number of seconds", _positive_number,
    "Seconds between a failure and the retry.",
)
dead_letter_queue: Setting[str | None] = _setting(
    "replica", "dead_letter_queue", None, "the name of a queue", _text_or_none,
    "Queue where the broker keeps messages that no worker can read. None: ``dead_letter_<queue>``.",
)
legacy_queue: Setting[str | None] = _setting(
    "replica", "legacy_queue", None, "the name of a queue", _text_or_none,
    "Queue to which masters that still run django-cqrs publish for this service: its worker consumes it too. It is "
    "used as it is, or made where there is none. None: there are no such masters.",
)
replica_legacy_exchange: Setting[str] = _setting(
    "replica", "legacy_exchange", "cqrs", "the name of an exchange", _text,
    "Exchange of the masters that still run django-cqrs, to which ``legacy_queue`` is bound.",
)
legacy_dead_letter_queue: Setting[str | None] = _setting(
    "replica", "legacy_dead_letter_queue", None, "the name of a queue", _text_or_none,
    "Queue of the changes that django-cqrs gave up; where it is there, they become dead letters of this service. None: "
    "``dead_letter_<legacy_queue>``.",
)
dead_message_ttl: Setting[int | None] = _setting(
    "replica", "dead_message_ttl", 864000, "a number of seconds, or None for ever", _positive_or_none,
    "Seconds that a closed or dead dead letter is kept. None: for ever.",
)
request_snapshots: Setting[bool] = _setting(
    "replica", "request_snapshots", True, "True or False", _boolean,
    "Whether a worker that has no word of it yet asks the master for the rows that were there before this replica.",
)
query_timeout: Setting[int] = _setting(
    "replica", "CQRS_QUERY_TIMEOUT", 0, "a number of milliseconds, 0 for none", lambda v: _is_int(v) and v >= 0,
    "Longest time that one statement may take while changes are applied.",
)
log_timed_out_queries: Setting[bool] = _setting(
    "replica", "CQRS_LOG_TIMED_OUT_QUERIES", False, "True or False", _boolean,
    "Whether a statement that ran into ``CQRS_QUERY_TIMEOUT`` is logged, without its parameters.",
)
query_logger: Setting[str] = _setting(
    "replica", "CQRS_QUERY_LOGGER", "django-cqrs-celery.queries", "the name of a logger", _text,
    "Logger for statements that timed out.",
)
prefetch: Setting[int] = _setting(
    "replica", "prefetch", 500, "a positive whole number", _positive,
    "Messages that the broker hands to a worker ahead of their turn; batches form from them.",
)
batch_size: Setting[int] = _setting(
    "replica", "batch_size", 500, "a positive whole number", _positive,
    "Most messages that are applied in one transaction.",
)
delivery_limit: Setting[int] = _setting(
    "replica", "delivery_limit", 20, "a positive whole number", _positive,
    "Deliveries after which a message that keeps killing its worker goes to the dead-letter queue.",
)
replica_tombstone_ttl: Setting[int] = _setting(
    "replica", "tombstone_ttl", 30 * 86400, "a positive number of seconds", _positive,
    "How long a replica remembers the revision of a deleted row. Longer than any message can live.",
)


def call(setting: Setting[Any], *args: Any, **kwargs: Any) -> Any:
    """Call the function that a setting holds, given as it is or by its dotted path; None where there is none."""
    function = setting()
    if isinstance(function, str):
        function = import_string(function)
    return None if function is None else function(*args, **kwargs)


def legacy_dead_letter_queue_name() -> str:
    """Queue where django-cqrs keeps what it gave up, of a replica that has a ``legacy_queue``."""
    return legacy_dead_letter_queue() or f"dead_letter_{legacy_queue()}"


def dead_letter_queue_name() -> str:
    """Queue where the broker keeps what this replica's workers cannot read."""
    return dead_letter_queue() or f"dead_letter_{queue()}"
