"""What can be wrong with the capture of changes by triggers; ``checks`` reports it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from django.core.checks import CheckMessage
from django.db import DatabaseError, connections, router

from django_cqrs_celery import checks_models as common
from django_cqrs_celery import conf, links, triggers, triggers_rules, triggers_upkeep
from django_cqrs_celery.triggers_upkeep import TriggerSet

_CAPTURES = (None, "auto", "orm", "trigger")


def problems(model: Any) -> Iterator[CheckMessage]:
    """What is wrong with how one master model is to be captured."""
    capture = getattr(model, "CQRS_CAPTURE", None)
    if capture not in _CAPTURES:
        yield common.error(
            "E065",
            f"{common.label(model)}.CQRS_CAPTURE is {capture!r}, expected 'auto', 'orm', 'trigger' or None.",
            "Write 'auto', 'orm' or 'trigger', or leave it out for what CQRS['master']['capture'] says.",
            model,
        )
        return
    if (capture or conf.capture.raw()) == "trigger" and getattr(model, "CQRS_PRODUCE", True):
        reason = _why_not(model)
        if reason:
            yield common.warning(
                "W066",
                f"Changes of {common.label(model)} are not captured by triggers: {reason}. They are captured by the"
                " ORM, which does not see raw SQL and other programs.",
                "Set CQRS_CAPTURE = 'orm' on the model to say that this is meant.",
                model,
            )
        elif links.replicated(model) and (reason := triggers_rules.why_not_links(model)):
            yield common.warning(
                "W066",
                f"Links of {common.label(model)} are not captured by triggers: {reason}. They are captured by the ORM,"
                " which does not see raw SQL and other programs.",
                "Write the links through Django, or set CQRS_CAPTURE = 'orm' on the model to say that this is meant.",
                model,
            )


def _why_not(model: Any) -> str | None:
    connection = connections[router.db_for_write(model)]
    if not triggers.is_supported(connection):
        return f"there are none for {connection.display_name}, the engine of the database '{connection.alias}'"
    if not conf.outbox.raw():
        return "CQRS['master']['outbox'] is off"
    return triggers_rules.why_not(model)


def not_installed(masters: Iterable[Any], databases: Sequence[str] | None) -> Iterator[CheckMessage]:
    """Triggers that a database does not have as the models declare them; connects to the databases."""
    if databases is None:
        return
    chosen = {id(model) for model in masters}
    for found in triggers_upkeep.sets():
        if id(found.model) in chosen and found.alias in databases:
            yield from _state_problem(found)


def _state_problem(found: TriggerSet) -> Iterator[CheckMessage]:
    where = f"of {common.label(found.model)} on the database '{found.alias}'"
    command = f"cqrs_triggers install --cqrs-id {found.cqrs_id} --database {found.alias}"
    try:
        state = found.state()
    except DatabaseError:
        return  # migrate and the project's own checks say what is wrong with the database
    if state == "missing":
        yield common.warning(
            "W062",
            f"The triggers {where} are missing: the ORM captures its changes until they come, and those that others"
            " make are lost to the replicas.",
            f"Run migrate. If it has nothing to do, run {command}, then cqrs_sync for what was written meanwhile.",
            found.model,
        )
    elif state == "disabled":
        yield common.warning(
            "W063",
            f"Triggers {where} are disabled: its changes are lost to the replicas until processes are started anew;"
            " then the ORM captures them, and those that others make are lost.",
            f"Run {command}, then cqrs_sync for what was written meanwhile.",
            found.model,
        )
    elif state == "outdated":
        yield common.warning(
            "W064",
            f"The triggers {where} are not those that the model declares.",
            f"Run makemigrations and migrate. If they have nothing to do, run {command}.",
            found.model,
        )
