"""System checks: what can be told to be wrong before anything runs. Each id has a heading in the reference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Tags, register

from django_cqrs_celery import checks_masters, checks_models, checks_replicas, checks_settings, checks_triggers
from django_cqrs_celery.registries import MasterRegistry, ReplicaRegistry

#: ``manage.py check --tag django_cqrs_celery`` runs these checks alone.
TAG = "django_cqrs_celery"


@register(TAG)
def check_settings(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """The ``CQRS`` settings."""
    return list(checks_settings.problems())


@register(TAG)
def check_models(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Master and replica models."""
    found: list[CheckMessage] = []
    for registry in (MasterRegistry, ReplicaRegistry):
        refused = [(model, reason) for model, reason in registry.refused if _is_chosen(model, app_configs)]
        found.extend(checks_models.refusals(registry.side, refused))
    for model in _chosen(MasterRegistry.models.values(), app_configs):
        found.extend(checks_masters.problems(model))
        found.extend(checks_triggers.problems(model))
    for model in _chosen(ReplicaRegistry.models.values(), app_configs):
        found.extend(checks_replicas.problems(model))
    return found


@register(TAG, Tags.database)
def check_tables(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """The tables of this app are where the models are; run by ``migrate`` and ``check --database``."""
    masters = _chosen(MasterRegistry.models.values(), app_configs)
    replicas = _chosen(ReplicaRegistry.models.values(), app_configs)
    return list(checks_models.missing_tables(masters, replicas, databases))


@register(TAG, Tags.database)
def check_triggers(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """The triggers are in the databases as the models declare them; run by ``migrate`` and ``check --database``."""
    return list(checks_triggers.not_installed(_chosen(MasterRegistry.models.values(), app_configs), databases))


@register(TAG, Tags.database)
def check_absences(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """The replica was not away for longer than it remembers deletes; run by ``migrate`` and ``check --database``."""
    return list(checks_models.absences(databases or ())) if ReplicaRegistry.models else []


def _chosen(models: Iterable[Any], app_configs: Sequence[AppConfig] | None) -> list[Any]:
    return [model for model in models if _is_chosen(model, app_configs)]


def _is_chosen(model: Any, app_configs: Sequence[AppConfig] | None) -> bool:
    if app_configs is None:
        return True
    meta = getattr(model, "_meta", None)
    return meta is not None and meta.app_label in {config.label for config in app_configs}
