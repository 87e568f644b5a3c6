"""What else a project imports."""

from __future__ import annotations

import datetime
import importlib
import inspect

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.core.management import get_commands
from django.urls import path, reverse

import django_cqrs_celery
from django_cqrs_celery import (
    conf,
    constants,
    dataclasses,
    metas,
    mixins,
    models,
    registries,
    schedules,
    signals,
    tasks,
)
from django_cqrs_celery.admin import CQRSAdminMasterSyncMixin
from django_cqrs_celery.constants import ALL_BASIC_FIELDS, NO_QUEUE, SignalType
from django_cqrs_celery.dataclasses import TransportPayload
from django_cqrs_celery.signals import post_bulk_create, post_update
from tests.parity.masters import models as master
from tests.parity.mixed import master_alias, sent


class AccountAdmin(CQRSAdminMasterSyncMixin, admin.ModelAdmin):
    actions = ["rename"]

    @admin.action
    def rename(self, request, queryset):
        pass


class PersonAdmin(CQRSAdminMasterSyncMixin, admin.ModelAdmin):
    def _cqrs_sync_queryset(self, queryset):
        return queryset.filter(first_name="chosen")


site = admin.AdminSite(name="parity")
site.register(master.Account, AccountAdmin)
site.register(master.Person, PersonAdmin)
urlpatterns = [path("parity/", site.urls)]


@pytest.fixture
def act(client, net):
    """Run the action on rows of a model's page; returns what is sent then."""
    client.force_login(User.objects.create_superuser("root"))

    def run(*rows):
        sent(net)
        net.messages.clear()
        url = reverse(f"parity:parity_masters_{rows[0]._meta.model_name}_changelist")
        assert "sync_items" in client.get(url).content.decode()
        answer = client.post(url, {"action": "sync_items", "_selected_action": [row.pk for row in rows]})
        assert answer.status_code == 302
        return sent(net)

    return run


@pytest.mark.urls(__name__)
def test_admin_action(act):
    """CQRSAdminMasterSyncMixin"""
    rows = [master.Account.objects.create(name=name) for name in "abc"]
    found = act(*rows[:2])
    assert {change["signal_type"] for change in found} == {"SYNC"}
    assert sorted(change["instance_pk"] for change in found) == [row.pk for row in rows[:2]]


@pytest.mark.urls(__name__)
def test_admin_hook(act):
    """_cqrs_sync_queryset"""
    rows = [master.Person.objects.create(first_name=name) for name in ("chosen", "other")]
    assert [change["instance_pk"] for change in act(*rows)] == [rows[0].pk]


def test_signals(net):
    """post_bulk_create, post_update

    A project may send them itself, and listen to them.
    """
    heard = []

    def listen(sender, instances, using, **kwargs):
        heard.append((sender, [row.name for row in instances], using))

    for signal in (post_bulk_create, post_update):
        signal.connect(listen, sender=master.Account)
    try:
        master.Account.cqrs.bulk_create([master.Account(name="a"), master.Account(name="b")])
        master.Account.cqrs.bulk_update(master.Account.objects.filter(name="a"), name="c")
        using = master_alias()
        assert heard == [(master.Account, ["a", "b"], using), (master.Account, ["c"], using)]
        net.run()
        post_update.send(sender=master.Account, instances=list(master.Account.objects.all()), using=using)
        assert sorted(change["instance_data"]["name"] for change in sent(net)) == ["b", "c"]
    finally:
        for signal in (post_bulk_create, post_update):
            signal.disconnect(listen, sender=master.Account)


def test_all_basic_fields():
    """ALL_BASIC_FIELDS"""
    assert ALL_BASIC_FIELDS == "__all__" == mixins.MasterMixin.CQRS_FIELDS


def test_no_queue():
    """NO_QUEUE"""
    assert NO_QUEUE == "None"


def test_transport_payload():
    """TransportPayload"""
    until = datetime.datetime(2030, 1, 1, tzinfo=datetime.timezone.utc)
    data = {"id": 1, "cqrs_revision": 2}
    payload = TransportPayload("SAVE", "x", data, 1, "one", {"a": 0}, "corr", until, 3, {"m": 1})
    assert payload.signal_type is SignalType.SAVE == "SAVE"
    assert (payload.cqrs_id, payload.instance_data, payload.pk, payload.queue) == ("x", data, 1, "one")
    assert (payload.previous_data, payload.correlation_id, payload.expires) == ({"a": 0}, "corr", until)
    assert (payload.retries, payload.meta, payload.is_expired()) == (3, {"m": 1}, False)
    assert TransportPayload.from_message(payload.to_dict()) == payload
    assert TransportPayload(SignalType.SYNC, "x", data, 1) == TransportPayload.from_message(
        {"signal_type": "SYNC", "cqrs_id": "x", "instance_data": data, "instance_pk": 1}
    )
    with pytest.raises(ValueError, match="EXPLODE"):
        TransportPayload("EXPLODE", "x", data, 1)


COMMANDS = """
cqrs_consume cqrs_sync cqrs_relay cqrs_triggers cqrs_dead_letters cqrs_bulk_dump cqrs_bulk_load cqrs_diff_master
cqrs_diff_replica cqrs_diff_sync cqrs_deleted_diff_replica cqrs_deleted_diff_master cqrs_deleted_sync_replica
cqrs_status cqrs_doctor
"""


def test_public_names():
    """public names"""
    assert isinstance(django_cqrs_celery.__version__, str)
    for name in ("MasterMixin", "RawMasterMixin", "ReplicaMixin", "RawReplicaMixin"):
        assert inspect.isclass(getattr(mixins, name))
    for registry, meta in (
        (registries.MasterRegistry, metas.MasterMeta), (registries.ReplicaRegistry, metas.ReplicaMeta),
    ):  # fmt: skip
        cqrs_id, model = next(iter(registry.models.items()))
        assert registry.get_model_by_cqrs_id(cqrs_id) is model
        assert meta.register(model) is model
    assert {member.value for member in SignalType} == {"SAVE", "DELETE", "SYNC"}
    assert dataclasses.TransportPayload and signals.post_update and conf.SETTINGS
    for name in ("apply", "relay", "sync", "retry_dead_letters", "purge"):
        assert getattr(tasks, f"cqrs_{name}").name == f"django_cqrs_celery.tasks.cqrs_{name}"
    assert tasks.cqrs_apply.name == constants.TASK_APPLY
    assert all({"task", "schedule"} <= set(entry) for entry in schedules.beat_schedule().values())
    assert set(COMMANDS.split()) <= {name for name, app in get_commands().items() if app == "django_cqrs_celery"}
    for name in ("OutboxMessage", "Tombstone", "DeadLetter"):
        assert getattr(models, name).__doc__
    for model in (models.OutboxMessage, models.DeadLetter):
        assert admin.site.is_registered(model)
    testing = importlib.import_module("django_cqrs_celery.testing")
    assert testing.Network and importlib.import_module("django_cqrs_celery.pytest_plugin").cqrs_network
    assert importlib.import_module("django_cqrs_celery.utils").bulk_relate_cqrs_serialization
