"""How a model class joins its registry: by itself when it inherits a mixin, or by a call where it cannot."""

from __future__ import annotations

from typing import Any, TypeVar

from django.db.models import Model
from django.db.models.signals import class_prepared

from django_cqrs_celery import tracker
from django_cqrs_celery.registries import MasterRegistry, ReplicaRegistry

M = TypeVar("M", bound=type[Model])


class MasterMeta:
    """Registration of master models; ``MasterMeta.register`` works as a decorator."""

    @staticmethod
    def register(model: M) -> M:
        """Register a model that inherits ``RawMasterMixin``, whatever its metaclass is; returns the model."""
        if model._meta.base_manager_name is None:
            # What Django writes by itself (SET_NULL of a deleted parent, rows added to a reverse relation) goes through
            # the base manager: with this one it replicates.
            model._meta.base_manager_name = "cqrs"
        tracker.install(model)
        MasterRegistry.register_model(model)
        return model


class ReplicaMeta:
    """Registration of replica models; ``ReplicaMeta.register`` works as a decorator."""

    @staticmethod
    def register(model: M) -> M:
        """Register a replica model, whatever its metaclass is, or a class that is no model; returns the class."""
        ReplicaRegistry.register_model(model)
        return model


def _on_class_prepared(sender: Any, **kwargs: Any) -> None:
    # Lazily historical models of migrations live in an app registry of their own and inherit no mixin; proxies share
    # the registration of the model that they stand for.
    side = getattr(sender, "_cqrs_side", None)
    if side is None or sender._meta.abstract or sender._meta.proxy or sender._meta.swapped:
        return
    if "CQRS_AUTO_REGISTER" in sender.__dict__ and not sender.CQRS_AUTO_REGISTER:
        return
    (MasterMeta if side == "master" else ReplicaMeta).register(sender)


class_prepared.connect(_on_class_prepared, dispatch_uid="django_cqrs_celery.metas")
