"""Models for one test: they join the registries, and leave no trace."""

from __future__ import annotations

import pytest
from celery import Celery
from django.core.checks import run_checks
from django.test.utils import isolate_apps

from django_cqrs_celery import topology
from django_cqrs_celery.registries import MasterRegistry, ReplicaRegistry


@pytest.fixture(autouse=True)
def alone():
    """Empty registries and an app registry of the test's own; models are declared with ``app_label = 'master_app'``."""
    kept = [(registry, dict(registry.models), list(registry.refused)) for registry in (MasterRegistry, ReplicaRegistry)]
    for registry, _, _ in kept:
        registry.models.clear()
        registry.refused.clear()
    with isolate_apps("tests.master_app"):
        yield
    for registry, models, refused in kept:
        registry.models.clear()
        registry.models.update(models)
        registry.refused[:] = refused


@pytest.fixture(autouse=True)
def celery_app(monkeypatch):
    """A project with a Celery app."""
    app = Celery("tests", set_as_current=False)
    app.conf.task_default_queue = "tests"
    monkeypatch.setattr(topology, "celery_app", lambda: app)
    return app


@pytest.fixture
def check(settings):
    """Run the checks of this app; returns the messages by id, which has to be the only one of its kind."""
    settings.CQRS = {"queue": "tests"}

    def run(cqrs=None, databases=None):
        if cqrs is not None:
            settings.CQRS = cqrs
        messages = run_checks(tags=["django_cqrs_celery"], databases=databases)
        for message in messages:
            assert message.msg and message.hint, message
        return {message.id.removeprefix("django_cqrs_celery."): message for message in messages}

    return run
