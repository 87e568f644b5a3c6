"""What became of the things that a project for django-cqrs uses; ``migrating`` looks for them."""

from __future__ import annotations

import re

from django_cqrs_celery.checks_settings import MOVED

MIXINS = {"MasterMixin", "RawMasterMixin", "ReplicaMixin", "RawReplicaMixin"}

NO_APP = (
    "Write celery.py as Celery's guide for Django shows it, and import its app in the __init__.py of the project"
    " package."
)
NO_BEAT = (
    "Set CELERY_BEAT_SCHEDULE = beat_schedule(), from django_cqrs_celery.schedules, and run celery beat: it publishes"
    " what is left over, retries, and cleans up."
)
NO_EXCHANGE = (
    "Set it to a new name, the same in all services that have moved: 'cqrs', the default, stays django-cqrs's until all"
    " have. A moved master names that in CQRS['master']['legacy_exchange'], a moved replica in"
    " CQRS['replica']['legacy_exchange']."
)
NO_DEFAULTS = (
    "When the rest is done, run makemigrations --name cqrs_columns, write atomic = False into what it makes, and run"
    " migrate."
)
ATOMIC = (
    "Write atomic = False below the class: the lock of one table, held while the next is waited for, can end in a"
    " deadlock with a service that writes to both."
)
PAYLOAD = "Name them: TransportPayload(signal_type=…, cqrs_id=…, instance_data=…, instance_pk=…)."

#: Keys of ``CQRS`` that only django-cqrs has: with one of them the dict has not been moved yet.
BROKER_KEYS = {"transport", "url", "host", "port", "user", "password"}
_NEW_QUEUE = (
    "Give the service's queue a new name: the one of django-cqrs has other properties. Name the old one in"
    " CQRS['replica']['legacy_queue'] until all masters have moved."
)


def setting(key: str, unmoved: bool) -> str | None:
    """What to do with a key of ``CQRS``, or of a part of it; None where it stays."""
    if unmoved and key == "queue":
        return _NEW_QUEUE
    if unmoved and key == "exchange":
        return NO_EXCHANGE.replace("Set it to", "Change it to").replace("'cqrs', the default,", "the one that is there")
    return MOVED.get(key)


_PRODUCE = (
    "Nothing is published past the outbox here: save the row, or send it with Model.cqrs_sync(), the command cqrs_sync"
    " or Model.call_post_update()."
)
_TRANSPORT = "Celery is the transport: delete it, and set CELERY_BROKER_URL."
#: Modules and names that have none here, by their dotted path.
WITHOUT_COUNTERPART = {
    "dj_cqrs.transport": _TRANSPORT,
    "dj_cqrs.controller.producer": _PRODUCE,
    "dj_cqrs.controller": "Changes are applied by the worker: in tests use django_cqrs_celery.testing.Network.",
    "dj_cqrs.delay": "Changes that are to be tried again wait in the table of dead letters: delete it.",
    "dj_cqrs.correlation": "Call the function that CQRS['master']['correlation_function'] names.",
    "dj_cqrs.signals.MasterSignals": _PRODUCE,
    "dj_cqrs.tracker.CQRSTracker": "Model.cqrs_tracker is the tracker of a model, a django-model-utils FieldTracker.",
    "dj_cqrs.constants.DEFAULT_": "Defaults are in the reference of settings; django_cqrs_celery.conf reads a setting.",
    "dj_cqrs.logger": "A statement that ran into CQRS_QUERY_TIMEOUT is logged by CQRS_LOG_TIMED_OUT_QUERIES alone.",
    "dj_cqrs.state": "It holds nothing that is for others: delete it.",
    "dj_cqrs._validation": "Settings are checked by manage.py check: delete it.",
    "dj_cqrs.management": "Call the command by its name.",
}
#: Private names of django-cqrs that projects are seen to use.
PRIVATE = {
    "_update_cqrs_fields_default": "Set CQRS['master']['CQRS_AUTO_UPDATE_FIELDS'], or give save() update_cqrs_fields.",
    "_common_serialization": "Override to_cqrs_dict().",
    "_class_serialization": "Override to_cqrs_dict().",
    "_cqrs_serializer_cls": "Read CQRS_SERIALIZER.",
    "_cqrs_saves_count": "Read cqrs_saves_count, or call reset_cqrs_saves_count().",
}

#: Class attributes that may go, or that do more than before.
ATTRIBUTES = {
    "CQRS_SELECT_FOR_UPDATE": "It may go: rows are always locked before they are compared.",
    "CQRS_ONLY_DIRECT_SYNCS": "It stays; syncs that were sent to this queue alone do arrive now.",
}
#: Arguments of a replica's hooks, by which they are called.
HOOKS = {
    "cqrs_save": ("master_data", "previous_data", "sync"),
    "cqrs_create": ("sync", "mapped_data", "previous_data"),
    "cqrs_update": ("sync", "mapped_data", "previous_data"),
    "cqrs_delete": ("master_data",),
    "should_retry_cqrs": ("current_retry", "exception"),
    "get_cqrs_retry_delay": ("current_retry",),
}
HOOK_HINTS = {
    "cqrs_save": "It stays. It gets changes that are newer than the row, which is locked: it need not compare them.",
}

#: Commands that are called: name, what else the line holds, what to do, whether it must be done.
COMMANDS = (
    (
        "cqrs_consume", r"--sig(int|kill)-timeout",
        "Delete the option: Celery's worker ends when its batch is done; see worker_soft_shutdown_timeout of Celery.",
        True,
    ),
    (
        "cqrs_consume", r"",
        "It stays, and starts a Celery worker; celery -A <project> worker -Q <queue> is the same. One worker on a queue"
        " of django-cqrs is enough, and keeps its order.",
        False,
    ),
    ("cqrs_bulk_load", r"--clear[= ](?!yes\b|no\b|true\b|false\b)\w", "--clear takes yes or no.", True),
    (
        "cqrs_dead_letters", r"\b(dump|retry|purge)\b",
        "It stays, and reads the table of dead letters of this service, no queue: retry tries them here, in place of"
        " sending them through the broker.",
        False,
    ),
    (
        "cqrs_(deleted_)?diff_\\w+", r"",
        "It stays; nothing is lost on the way any more that it would have to find.",
        False,
    ),
)  # fmt: skip

REQUIREMENT = re.compile(r"(?<![\w-])django[-_.]cqrs(?![-_.]?\w)", re.IGNORECASE)


def is_requirements(name: str) -> bool:
    """Whether a file lists what is to be installed."""
    base = name.rpartition("/")[2].lower()
    return (
        base in {"pyproject.toml", "setup.cfg", "pipfile", "environment.yml"}
        or "requirements" in name.lower()
        or base.startswith("dockerfile")
    )


def is_script(name: str) -> bool:
    """Whether a file that is no Python may start commands or list what is to be installed."""
    base = name.lower()
    suffixes = (".sh", ".yml", ".yaml", ".toml", ".cfg", ".ini", ".conf", ".service", ".bat", ".txt", ".in", ".mk")
    starts = ("procfile", "dockerfile", "makefile", "justfile", "crontab", "pipfile")
    return base.endswith(suffixes) or base.startswith(starts)
