"""Wiring: what happens when Django has loaded the app."""

from __future__ import annotations

from django.apps import AppConfig


class CQRSCeleryConfig(AppConfig):
    """The app ``django_cqrs_celery``."""

    name = "django_cqrs_celery"
    verbose_name = "CQRS replication"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Start to capture, to dispatch, and to listen for workers."""
        from celery.signals import worker_process_shutdown, worker_shutdown

        from django_cqrs_celery import (
            background,
            bulk,
            capture,
            consumer,
            link_capture,
            mailbox,
            modes,
            signals,
            topology,
        )
        from django_cqrs_celery import checks as checks
        from django_cqrs_celery import triggers_schema as schema
        from django_cqrs_celery import triggers_upkeep as upkeep

        schema.start()
        upkeep.start()
        topology.remember_app()
        capture.start()
        bulk.start()
        link_capture.start()
        signals.unpromised_committed.connect(
            modes.on_unpromised_committed, dispatch_uid="django_cqrs_celery.dispatcher"
        )
        signals.outbox_committed.connect(modes.on_outbox_committed, dispatch_uid="django_cqrs_celery.dispatcher")
        consumer.install()
        mailbox.install()
        worker_process_shutdown.connect(background.flush_at_exit, dispatch_uid="django_cqrs_celery.background")
        worker_shutdown.connect(background.flush_at_exit, dispatch_uid="django_cqrs_celery.background")
