"""Admin pages: nothing that is replicated is shown, and the actions do what they say."""

from __future__ import annotations

import subprocess
import sys
import uuid

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.db import models, transaction
from django.test import override_settings
from django.urls import path, reverse

from django_cqrs_celery import intake
from django_cqrs_celery.admin import CQRSAdminMasterSyncMixin
from django_cqrs_celery.models import DeadLetter, OutboxMessage
from tests import conftest
from tests.master_app import models as master
from tests.replica_app import models as replica

SECRET = "private-value"
CODE = str(uuid.UUID(int=7))


class AuthorAdmin(CQRSAdminMasterSyncMixin, admin.ModelAdmin):
    pass


class BookAdmin(CQRSAdminMasterSyncMixin, admin.ModelAdmin):
    """As with django-cqrs: the action is listed, and the hook says which of the chosen rows are sent."""

    actions = ["sync_items"]

    def _cqrs_sync_queryset(self, queryset):
        return queryset.exclude(title="draft")


site = admin.AdminSite(name="tests")
site.register(master.Author, AuthorAdmin)
site.register(master.Book, BookAdmin)
urlpatterns = [path("admin/", admin.site.urls), path("own/", site.urls)]
pytestmark = pytest.mark.urls(__name__)


@pytest.fixture
def pair(transactional_db):
    conftest.use_pair("sqlite", "sqlite")


@pytest.fixture
def superuser(client, pair):
    client.force_login(User.objects.create_superuser("root"))
    return client


@pytest.fixture
def letter(pair):
    replica.Ticket.fail_with = ValueError("no")
    change = {
        "signal_type": "SAVE", "cqrs_id": "ticket", "instance_pk": CODE,
        "instance_data": {"code": CODE, "title": SECRET, "cqrs_revision": 1, "cqrs_updated": "2030-01-01T00:00:00Z"},
    }  # fmt: skip
    with override_settings(CQRS={"queue": "tests", "replica": {"CQRS_MAX_RETRIES": 0}}):
        intake.take_changes([change])
    replica.Ticket.fail_with = None
    return DeadLetter.objects.get()


@pytest.fixture
def promise(pair):
    secret = f'{{"name": "{SECRET}"}}'
    return OutboxMessage.objects.create(
        signal_type="DELETE", cqrs_id="author", instance_pk="12", revision=3, instance_data=secret,
        previous_data=secret, meta=secret, status=2, error="why it failed",
    )  # fmt: skip


def page(client, model, *args, **query):
    kind = "change" if args else "changelist"
    response = client.get(reverse(f"admin:django_cqrs_celery_{model}_{kind}", args=args), query)
    assert response.status_code == 200
    text = response.content.decode()
    assert SECRET not in text
    return text


def act(client, url, action, *objects):
    data = {"action": action, "_selected_action": [item.pk for item in objects]}
    response = client.post(reverse(url), data, follow=True)
    assert response.status_code == 200
    return [str(message) for message in response.context["messages"]]


LETTERS = "admin:django_cqrs_celery_deadletter_changelist"


# --- pages ---------------------------------------------------------------------------------------------------------


def test_dead_letter_pages_show_no_payload(superuser, letter):
    assert CODE in page(superuser, "deadletter")
    detail = page(superuser, "deadletter", letter.pk)
    assert "builtins.ValueError" in detail and "Traceback" in detail
    assert 'name="_save"' not in detail and "deletelink" not in detail


def test_outbox_pages_show_no_payload(superuser, promise):
    assert ">author<" in page(superuser, "outboxmessage")
    detail = page(superuser, "outboxmessage", promise.pk)
    assert "why it failed" in detail and 'name="_save"' not in detail


@pytest.mark.parametrize("model", ["deadletter", "outboxmessage"])
def test_filters_and_search(superuser, letter, promise, model):
    wanted, key = (letter.status, CODE) if model == "deadletter" else (promise.status, "12")
    hit, miss = "1 dead letter" if model == "deadletter" else "1 outbox message", f"0 {model[:4]}"
    assert hit in page(superuser, model, status__exact=wanted)
    assert miss in page(superuser, model, status__exact="resolved" if model == "deadletter" else 0)
    assert hit in page(superuser, model, q=key)
    assert miss in page(superuser, model, q=key + "9")
    assert hit in page(superuser, model, cqrs_id="ticket" if model == "deadletter" else "author")


@pytest.mark.parametrize("model", ["deadletter", "outboxmessage"])
def test_nothing_is_added_edited_or_deleted_by_hand(superuser, letter, promise, model):
    pk = letter.pk if model == "deadletter" else promise.pk
    base = f"admin:django_cqrs_celery_{model}_"
    assert superuser.get(reverse(f"{base}add")).status_code == 403
    assert superuser.post(reverse(f"{base}delete", args=[pk]), {"post": "yes"}).status_code == 403
    assert superuser.post(reverse(f"{base}change", args=[pk]), {"status": "resolved"}).status_code == 403
    assert "delete_selected" not in page(superuser, model)
    letter.refresh_from_db()
    assert letter.status == "dead" and OutboxMessage.objects.filter(pk=promise.pk).exists()


# --- dead letters --------------------------------------------------------------------------------------------------


def test_retry_now(superuser, letter):
    assert act(superuser, LETTERS, "retry_now", letter) == ["1 of 1 due now."]
    letter.refresh_from_db()
    assert letter.status == "pending"
    intake.retry_due()
    assert replica.Ticket.objects.get().title == SECRET


def test_close(superuser, letter):
    assert act(superuser, LETTERS, "close", letter) == ["1 of 1 closed."]
    letter.refresh_from_db()
    assert letter.status == "resolved"
    for action in ("close", "retry_now"):
        assert act(superuser, LETTERS, action, letter)[0].startswith("0 of 1 ")
    letter.refresh_from_db()
    assert letter.status == "resolved"


def test_who_may_only_look_cannot_act(client, letter):
    user = User.objects.create_user("reader", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_deadletter"))
    client.force_login(user)
    assert "retry_now" not in page(client, "deadletter")
    act(client, LETTERS, "close", letter)
    letter.refresh_from_db()
    assert letter.status == "dead"


# --- synchronisation -----------------------------------------------------------------------------------------------


def authors(*names):
    made = [master.Author.objects.create(name=name) for name in names]
    OutboxMessage.objects.all().delete()
    return made


def test_sync_items(superuser):
    first, second, _ = authors("a", "b", "c")
    said = act(superuser, "tests:master_app_author_changelist", "sync_items", first, second)
    assert said == ["2 rows are being sent to the replicas."]
    promised = OutboxMessage.objects.values_list("signal_type", "cqrs_id", "instance_pk", "queue")
    assert sorted(promised) == [("SYNC", "author", str(row.pk), None) for row in (first, second)]


def test_sync_items_reaches_the_replica(superuser, net):
    (author,) = authors("a")
    assert act(superuser, "tests:master_app_author_changelist", "sync_items", author) == [
        "1 row is being sent to the replicas."
    ]
    net.run()
    assert replica.Author.objects.get().name == "a"


def test_sync_items_is_one_transaction(pair, monkeypatch):
    monkeypatch.setattr("django_cqrs_celery.admin._SYNC_BATCH", 1)
    rows = authors("a", "b", "c")
    model_admin = AuthorAdmin(master.Author, site)
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=rows[0]._state.db):
        model_admin.message_user = lambda *args: None
        model_admin.sync_items(None, master.Author.objects.all())
        assert OutboxMessage.objects.count() == 3
        raise ZeroDivisionError
    assert OutboxMessage.objects.count() == 0


def test_sync_items_of_an_overridden_hook(superuser):
    (author,) = authors("a")
    book, draft = (master.Book.objects.create(title=title, author=author) for title in ("t", "draft"))
    OutboxMessage.objects.all().delete()
    assert act(superuser, "tests:master_app_book_changelist", "sync_items", book, draft) == [
        "1 row is being sent to the replicas."
    ]
    assert list(OutboxMessage.objects.values_list("instance_pk", flat=True)) == [str(book.pk)]


def test_sync_items_needs_the_right_to_change(client, pair):
    (author,) = authors("a")
    user = User.objects.create_user("reader", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_author", content_type__app_label="master_app"))
    client.force_login(user)
    url = "tests:master_app_author_changelist"
    assert "sync_items" not in client.get(reverse(url)).content.decode()
    act(client, url, "sync_items", author)
    assert not OutboxMessage.objects.exists()


def test_every_column_that_holds_values_is_hidden():
    for model, hidden in ((DeadLetter, {"payload"}), (OutboxMessage, {"instance_data", "previous_data", "meta"})):
        shown = set(admin.site._registry[model].list_display)
        excluded = set(admin.site._registry[model].exclude)
        text = {f.name for f in model._meta.fields if isinstance(f, models.TextField)}
        assert hidden <= excluded and not hidden & shown
        assert text - excluded <= {"error", "error_message", "traceback"}


WITHOUT_ADMIN = """
import sys
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django_cqrs_celery"], CQRS={}, SILENCED_SYSTEM_CHECKS=["django_cqrs_celery.W011"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
)
import django
django.setup()
from django.core.management import call_command
call_command("check", databases=["default"], fail_level="WARNING")
loaded = [name for name in sys.modules if name.startswith("django.contrib.admin") or name.endswith("celery.admin")]
sys.exit(f"loaded: {loaded}" if loaded else 0)
"""


def test_a_project_without_the_admin():
    done = subprocess.run([sys.executable, "-c", WITHOUT_ADMIN], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
