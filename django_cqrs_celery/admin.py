"""Pages of dead letters and the outbox, and an action that sends rows to the replicas anew. No page shows a payload."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db import models, router, transaction
from django.http import HttpRequest
from django.utils.translation import ngettext

from django_cqrs_celery import dead_letters, signals
from django_cqrs_celery.constants import DeadLetterStatus
from django_cqrs_celery.models import DeadLetter, OutboxMessage
from django_cqrs_celery.querysets import DeadLetterQuerySet

_SYNC_BATCH = 1000


class CQRSAdminMasterSyncMixin:
    """For the ``ModelAdmin`` of a master model: an action that sends the chosen rows to every replica anew."""

    message_user: Callable[..., None]

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Offer ``sync_items`` beside the actions that the class lists itself."""
        actions = super().get_actions(request)  # type: ignore[misc]
        if "sync_items" not in actions and self.has_change_permission(request):  # type: ignore[attr-defined]
            actions["sync_items"] = self.get_action("sync_items")  # type: ignore[attr-defined]
        return actions

    def _cqrs_sync_queryset(self, queryset: models.QuerySet) -> models.QuerySet:
        """The rows to send, of those that were chosen. For projects to override."""
        return queryset

    def _cqrs_sync(self, queryset: models.QuerySet) -> int:
        """Promise to send the rows of ``queryset``, in one transaction; returns how many."""
        using = router.db_for_write(queryset.model)
        sent = 0
        with transaction.atomic(using=using):
            chunk: list[models.Model] = []
            for instance in queryset.using(using).iterator(chunk_size=_SYNC_BATCH):
                chunk.append(instance)
                if len(chunk) == _SYNC_BATCH:
                    sent += _send(queryset.model, chunk, using)
                    chunk = []
            sent += _send(queryset.model, chunk, using)
        return sent

    @admin.action(description="Synchronise with the replicas", permissions=["change"])
    def sync_items(self, request: HttpRequest, queryset: models.QuerySet) -> None:
        """Send the chosen rows to every replica."""
        count = self._cqrs_sync(self._cqrs_sync_queryset(queryset))
        text = ngettext("%d row is being sent to the replicas.", "%d rows are being sent to the replicas.", count)
        self.message_user(request, text % count, messages.SUCCESS)


def _send(model: type[models.Model], instances: list[models.Model], using: str) -> int:
    if instances:
        signals.sync_requested.send(sender=model, instances=instances, using=using, queue=None)
    return len(instances)


class _ReadOnly(admin.ModelAdmin):
    """What only the project itself writes: nothing can be added, edited or deleted by hand."""

    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(DeadLetter)
class DeadLetterAdmin(_ReadOnly):
    """Changes that could not be applied."""

    list_display = ("id", "status", "cqrs_id", "instance_pk", "revision", "error_class", "retries", "next_retry_at")
    list_filter = ("status", "cqrs_id", "signal_type")
    search_fields = ("=instance_pk", "=correlation_id")
    ordering = ("-id",)
    exclude = ("payload", "lease_token", "leased_until")
    actions = ("retry_now", "close")

    def has_act_permission(self, request: HttpRequest) -> bool:
        """Who may change dead letters may retry and close them."""
        return request.user.has_perm("django_cqrs_celery.change_deadletter")

    @admin.action(description="Retry now", permissions=["act"])
    def retry_now(self, request: HttpRequest, queryset: DeadLetterQuerySet) -> None:
        """Make the chosen open letters due; a worker tries them within seconds."""
        chosen = queryset.count()
        self._say(request, dead_letters.ask_again(queryset), chosen, "due now")

    @admin.action(description="Close", permissions=["act"])
    def close(self, request: HttpRequest, queryset: DeadLetterQuerySet) -> None:
        """Close the chosen open letters: nothing tries them again, and the clean-up deletes them."""
        chosen = queryset.count()
        self._say(request, queryset.open().free().close(DeadLetterStatus.RESOLVED), chosen, "closed")

    def _say(self, request: HttpRequest, done: int, chosen: int, what: str) -> None:
        text = f"{done} of {chosen} {what}."
        if done < chosen:
            text += " The others are closed already, held by a worker, or hold no change that can be read."
        self.message_user(request, text, messages.SUCCESS if done == chosen else messages.WARNING)


@admin.register(OutboxMessage)
class OutboxMessageAdmin(_ReadOnly):
    """Changes that wait to be published, failed ones, and remembered deletes."""

    list_display = ("id", "status", "signal_type", "cqrs_id", "instance_pk", "queue", "created_at", "attempts")
    list_filter = ("status", "cqrs_id", "signal_type")
    search_fields = ("=instance_pk", "=correlation_id")
    ordering = ("-id",)
    exclude = ("instance_data", "previous_data", "meta", "lease_token", "leased_until")
