"""Which model answers to a CQRS_ID, on each side."""

from __future__ import annotations

from typing import Any

from django.db.models import Model
from django.dispatch import Signal

from django_cqrs_celery import signals
from django_cqrs_celery.exceptions import UnknownCQRSId


def _label(model: Any) -> str:
    # A replica may be a class that is no Django model.
    return model._meta.label if hasattr(model, "_meta") else f"{model.__module__}.{model.__qualname__}"


class _Registry:
    models: dict[str, type[Model]]
    #: Models that could not join, with the reason; the system checks report them.
    refused: list[tuple[type[Model], str]]
    registered: Signal
    side: str

    @classmethod
    def register_model(cls, model: type[Model]) -> None:
        """Add a model under its CQRS_ID. A second model of the same CQRS_ID is refused and reported by a check."""
        cqrs_id = getattr(model, "CQRS_ID", None)
        if not isinstance(cqrs_id, str) or not cqrs_id:
            cls.refused.append((model, "no CQRS_ID"))
            return
        other = cls.models.get(cqrs_id)
        if other is not None and other is not model and _label(other) != _label(model):
            cls.refused.append((model, f"CQRS_ID {cqrs_id!r} is also that of {_label(other)}"))
            return
        cls.models[cqrs_id] = model
        cls.registered.send(sender=model)

    @classmethod
    def get_model_by_cqrs_id(cls, cqrs_id: str) -> Any:
        """The model class. Raises ``UnknownCQRSId``, which lists the known ones."""
        try:
            return cls.models[cqrs_id]
        except (KeyError, TypeError):
            known = ", ".join(sorted(cls.models)) or "none"
            raise UnknownCQRSId(
                f"No {cls.side} model of this service has the CQRS_ID {cqrs_id!r} (known: {known})."
            ) from None


class MasterRegistry(_Registry):
    """Master models of this service by CQRS_ID."""

    models: dict[str, type[Model]] = {}
    refused: list[tuple[type[Model], str]] = []
    registered = signals.master_registered
    side = "master"


class ReplicaRegistry(_Registry):
    """Replica models of this service by CQRS_ID."""

    models: dict[str, type[Model]] = {}
    refused: list[tuple[type[Model], str]] = []
    registered = signals.replica_registered
    side = "replica"
