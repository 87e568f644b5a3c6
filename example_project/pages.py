"""The web pages of every service, as JSON.

``/``: what the service holds. ``/city/``: all rows, one JSON object a line. ``/city/2950159/``: one row; on the master
a POST changes it (``curl -d population=3800000 …``). Rows are told in the master's words, also by a replica that keeps
them under other names, so that two services can be compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import models
from django.db.models import Count, Sum
from django.http import Http404, HttpRequest, JsonResponse, StreamingHttpResponse
from django.urls import path

from django_cqrs_celery.models import DeadLetter, OutboxMessage
from django_cqrs_celery.registries import MasterRegistry, ReplicaRegistry


def _model(cqrs_id: str) -> Any:
    model = {**ReplicaRegistry.models, **MasterRegistry.models}.get(cqrs_id)
    if model is None:
        raise Http404(f"no model {cqrs_id}")
    return model


def _words(model: Any) -> dict[str, models.Field]:
    """Field of this service by the master's name for it."""
    own = {field.name: field for field in model._meta.concrete_fields}
    mapping = getattr(model, "CQRS_MAPPING", None)
    if mapping:
        common = {name: own[name] for name in ("cqrs_revision", "cqrs_updated")}
        own = {theirs: own[ours] for theirs, ours in mapping.items()} | common
    return own


def _in_words(model: Any, instance: models.Model) -> dict[str, Any]:
    return {word: getattr(instance, field.attname) for word, field in _words(model).items()}


def _json(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def overview(request: HttpRequest) -> JsonResponse:
    """Rows and the sum of their revisions by model; dead letters and outbox rows by status."""
    held = {
        cqrs_id: _model(cqrs_id).objects.aggregate(count=Count("pk"), revisions=Sum("cqrs_revision", default=0))
        for cqrs_id in ("country", "city")
    }
    statuses = {
        name: {str(row["status"]): row["n"] for row in model.objects.values("status").annotate(n=Count("pk"))}
        for name, model in (("dead_letters", DeadLetter), ("outbox", OutboxMessage))
    }
    return JsonResponse({"rows": held, **statuses})


def rows(request: HttpRequest, cqrs_id: str) -> StreamingHttpResponse:
    """Every row of a model."""
    model = _model(cqrs_id)

    def lines() -> Iterator[str]:
        for instance in model.objects.order_by("pk").iterator(chunk_size=2000):
            yield _json(_in_words(model, instance)) + "\n"

    return StreamingHttpResponse(lines(), content_type="application/x-ndjson")


def row(request: HttpRequest, cqrs_id: str, pk: str) -> JsonResponse:
    """One row; a POST to the master sets the fields that it names."""
    model = _model(cqrs_id)
    instance = model.objects.filter(pk=pk).first()
    if instance is None:
        raise Http404(f"no {cqrs_id} {pk}")
    if request.method == "POST":
        if cqrs_id not in MasterRegistry.models:
            return JsonResponse({"error": "a replica keeps copies; change the row on the master"}, status=405)
        try:
            _change(instance, request.POST.dict())
        except (FieldDoesNotExist, ValidationError) as error:
            return JsonResponse({"error": str(error)}, status=400)
        instance = model.objects.get(pk=instance.pk)
    return JsonResponse(json.loads(_json(_in_words(model, instance))))


def _change(instance: Any, values: dict[str, str]) -> None:
    for name, text in values.items():
        field = instance._meta.get_field(name)
        if field.primary_key or name.startswith("cqrs_"):
            raise ValidationError(f"{name} cannot be changed.")
        setattr(instance, field.attname, json.loads(text) if isinstance(field, models.JSONField) else text)
    instance.full_clean()
    instance.save()


urlpatterns = [
    path("", overview),
    path("<str:cqrs_id>/", rows),
    path("<str:cqrs_id>/<str:pk>/", row),
]
