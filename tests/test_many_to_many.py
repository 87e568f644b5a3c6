"""Links: what is added, removed, set and cleared on the master, from either side, is what the replica has."""

from __future__ import annotations

import itertools

import pytest
from django.core import serializers
from django.db import connections, transaction
from django.db.models.signals import m2m_changed, post_save
from django.test.utils import CaptureQueriesContext

from django_cqrs_celery import dumps, intake, links, sync
from django_cqrs_celery.models import DeadLetter, OutboxMessage, PendingLink
from tests import services
from tests.conftest import use_pair
from tests.master_app import models as master
from tests.replica_app import models as replica

FIELDS = ("topics", "countries", "tickets", "similar", "sequels")


class Undo(Exception):
    pass


@pytest.fixture(params=["set by set", "through hooks"])
def way(request):
    """The two ways of applying: a receiver makes a model go through its hooks."""

    def receiver(**kwargs):
        pass

    if request.param == "through hooks":
        for model in (replica.Article, replica.Topic, replica.Draft):
            post_save.connect(receiver, sender=model)
    yield request.param
    for model in (replica.Article, replica.Topic, replica.Draft):
        post_save.disconnect(receiver, sender=model)


@pytest.fixture
def sqlite(transactional_db):
    use_pair("sqlite", "sqlite")


def of(article, side):
    row = side.Article.objects.get(pk=article.pk)
    return {name: set(getattr(row, name).values_list("pk", flat=True)) for name in FIELDS}


def assert_equal(*articles):
    for article in articles:
        assert of(article, replica) == of(article, master)
        assert revision(article, replica) == revision(article, master)
    assert not PendingLink.objects.exists() and not DeadLetter.objects.open().exists()


def revision(row, side=master):
    return getattr(side, type(row).__name__).objects.values_list("cqrs_revision", flat=True).get(pk=row.pk)


def topics(*names):
    return [master.Topic.objects.create(name=name) for name in names]


def linked(article):
    return sorted(replica.Article.objects.get(pk=article.pk).topics.values_list("name", flat=True))


# --- changes ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("engine", "way")
class TestChanges:
    def test_each_verb_of_a_field(self, net):
        a, b, c = topics("a", "b", "c")
        article = master.Article.objects.create(title="x")
        article.topics.add(a, b)
        net.run()
        assert linked(article) == ["a", "b"]
        article.topics.remove(a)
        net.run()
        assert linked(article) == ["b"]
        article.topics.set([a, c])
        net.run()
        assert linked(article) == ["a", "c"]
        article.topics.clear()
        net.run()
        assert linked(article) == []
        assert_equal(article)

    def test_each_verb_from_the_other_side(self, net):
        (a,) = topics("a")
        one, two, three = (master.Article.objects.create(title=str(n)) for n in range(3))
        a.articles.add(one, two)
        net.run()
        assert linked(one) == linked(two) == ["a"] and linked(three) == []
        a.articles.remove(one)
        a.articles.add(three)
        net.run()
        assert linked(one) == [] and linked(two) == linked(three) == ["a"]
        a.articles.set([one])
        net.run()
        assert_equal(one, two, three)
        a.articles.add(two)
        a.articles.clear()
        net.run()
        assert_equal(one, two, three)
        assert linked(one) == linked(two) == []

    def test_keys_of_every_kind(self, net):
        (a,) = topics("a")
        land = master.Country.objects.create(iso="NZ", name="New Zealand")
        ticket = master.Ticket.objects.create(title="t")
        article = master.Article.objects.create(title="x")
        article.topics.add(a)
        article.countries.add(land, through_defaults={"times": 3})
        article.tickets.add(ticket)
        net.run()
        assert of(article, replica) == {
            "topics": {a.pk}, "countries": {"NZ"}, "tickets": {ticket.pk}, "similar": set(), "sequels": set(),
        }  # fmt: skip
        assert_equal(article)

    def test_links_to_itself(self, net):
        one, two, three = (master.Article.objects.create(title=str(n)) for n in range(3))
        one.similar.add(two, three)
        one.sequels.add(two, one)
        net.run()
        assert_equal(one, two, three)
        two.similar.remove(one)
        two.prequels.clear()
        net.run()
        assert_equal(one, two, three)
        three.similar.clear()
        net.run()
        assert_equal(one, two, three)
        two.delete()
        one.similar.set([three])
        net.run()
        assert_equal(one, three)

    def test_instances_of_the_model_of_links(self, net):
        land, other = (master.Country.objects.create(iso=iso, name=iso) for iso in ("NZ", "AU"))
        one, two = (master.Article.objects.create(title=str(n)) for n in range(2))
        mention = master.Mention.objects.create(article=one, country=land)
        net.run()
        assert_equal(one, two)
        mention.country = other
        mention.save()
        net.run()
        assert_equal(one, two)
        mention.article = two
        mention.save()
        net.run()
        assert_equal(one, two)
        assert of(two, replica)["countries"] == {"AU"}
        mention.delete()
        master.Mention.objects.create(article=one, country=land)
        master.Mention.objects.create(article=one, country=land)
        net.run()
        assert_equal(one, two)
        master.Mention.objects.filter(article=one).delete()
        net.run()
        assert_equal(one, two)
        assert of(one, replica)["countries"] == set()

    def test_what_is_linked_to_goes(self, net):
        a, b, c = topics("a", "b", "c")
        land = master.Country.objects.create(iso="NZ", name="New Zealand")
        article = master.Article.objects.create(title="x")
        article.topics.add(a, b, c)
        article.countries.add(land)
        net.run()
        a.delete()
        master.TopicProxy.objects.get(pk=b.pk).delete()
        land.delete()
        net.run()
        assert linked(article) == ["c"]
        assert_equal(article)
        master.Topic.objects.all().delete()
        net.run()
        assert linked(article) == []
        assert_equal(article)

    def test_owner_goes_and_comes_back(self, net):
        a, b = topics("a", "b")
        article = master.Article.objects.create(title="x")
        article.topics.add(a, b)
        net.run()
        pk = article.pk
        article.delete()
        net.run()
        assert not replica.Article.objects.exists()
        again = master.Article.objects.create(pk=pk, title="again")
        again.topics.add(b)
        net.run()
        assert linked(again) == ["b"]
        assert_equal(again)

    def test_only_chosen_fields_travel_and_may_have_another_name(self, net):
        a, b = topics("a", "b")
        draft = master.Draft.objects.create()
        draft.secrets.add(a)
        draft.topics.add(b)
        net.run()
        row = replica.Draft.objects.get(pk=draft.pk)
        assert list(row.subjects.values_list("pk", flat=True)) == [b.pk]
        assert revision(draft) == row.cqrs_revision == 1  # a field that does not travel raises nothing


# --- revisions and transactions --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("engine")
class TestTransactions:
    def test_one_revision_per_transaction_and_owner(self, net):
        a, b = topics("a", "b")
        article = master.Article.objects.create(title="x")
        with transaction.atomic(using=article._state.db):
            article.topics.add(a)
            article.topics.add(b)
            article.topics.remove(a)
            article.title = "y"
            article.save()
            a.articles.add(article)
        # Of links, PostgreSQL alone can tell its triggers that all was in one transaction.
        once = not services.BY_TRIGGER or connections[article._state.db].vendor == "postgresql"
        before = revision(article)
        assert before == 1 == article.cqrs_revision if once else before > 1
        with transaction.atomic(using=article._state.db):
            article.title = "z"
            article.save()
            article.topics.clear()
        assert revision(article) == 2 if once else revision(article) > before
        net.run()
        assert_equal(article)

    def test_links_of_a_new_row_are_part_of_it(self, net):
        with transaction.atomic(using=master.Topic.objects.db):
            (a,) = topics("a")
            article = master.Article.objects.create(title="x")
            article.topics.add(a)
        once = not services.BY_TRIGGER or connections[article._state.db].vendor == "postgresql"
        assert revision(article) == (0 if once else 1)
        net.run()
        assert_equal(article)

    def test_nothing_is_raised_where_nothing_changes(self):
        (a,) = topics("a")
        article = master.Article.objects.create(title="x")
        article.topics.add(a)
        article.topics.add(a)
        a.articles.add(article)
        article.topics.set([a])
        assert revision(article) == 1

    def test_rollback_of_a_transaction_and_of_a_savepoint(self, net):
        a, b = topics("a", "b")
        article = master.Article.objects.create(title="x")
        net.run()
        using = article._state.db
        with pytest.raises(Undo), transaction.atomic(using=using):
            article.topics.add(a)
            raise Undo
        assert revision(article) == 0 and not OutboxMessage.objects.pending().exists()
        with transaction.atomic(using=using):
            with pytest.raises(Undo), transaction.atomic(using=using):
                article.topics.add(a)
                raise Undo
            article.topics.add(b)
        assert revision(article) == 1
        net.run()
        assert linked(article) == ["b"]

    def test_hooks_see_the_new_links(self, net):
        private, a = topics("private", "a")
        draft = master.Draft.objects.create()
        net.run()
        draft.topics.add(a)
        net.run()
        draft.topics.add(private)
        assert net.pump() == 0  # is_sync_instance() has seen the topic
        row = replica.Draft.objects.get(pk=draft.pk)
        assert list(row.subjects.values_list("pk", flat=True)) == [a.pk] and row.cqrs_revision == 1
        private.articles.clear()
        draft.topics.set([])
        net.run()
        row.refresh_from_db()
        assert not row.subjects.exists() and row.cqrs_revision == revision(draft)

    def test_fixture_brings_links(self, net):
        a, b = topics("a", "b")
        article = master.Article.objects.create(title="x")
        article.topics.add(a, b)
        net.run()
        text = serializers.serialize("json", [article])
        article.topics.clear()
        net.run()
        with transaction.atomic(using=article._state.db):  # as loaddata has it
            for found in serializers.deserialize("json", text, using=article._state.db):
                found.save(using=article._state.db)
        net.run()
        assert linked(article) == ["a", "b"]
        assert_equal(article)

    def test_few_statements_for_many_owners(self, net):
        (a,) = topics("a")
        articles = master.Article.objects.bulk_create([master.Article(title=str(n)) for n in range(40)])
        connection = connections[a._state.db]
        with CaptureQueriesContext(connection) as few:
            a.articles.add(*articles[:2])
        with CaptureQueriesContext(connection) as many:
            a.articles.add(*articles[2:])
        assert len(many) <= len(few) + 2
        with CaptureQueriesContext(connection) as reading:
            net.pump()
        assert len(reading) < 30
        with CaptureQueriesContext(connections[replica.Article.objects.db]) as applying:
            net.deliver()
        assert len(applying) < 60
        assert_equal(*articles)


# --- order of arrival ------------------------------------------------------------------------------------------------


def bodies(net):
    net.pump()
    found = [message.body for message in net.messages]
    net.messages.clear()
    return found


@pytest.mark.usefixtures("engine", "way")
class TestOrders:
    def test_every_order_of_owner_and_targets(self, net):
        for number, order in enumerate(itertools.permutations(range(3))):
            a, b = topics(f"a{number}", f"b{number}")
            bodies(net)
            article = master.Article.objects.create(title="x")
            article.topics.add(a, b)
            owner = bodies(net)
            one, two = (master.Topic.objects.filter(pk=topic.pk) for topic in (a, b))
            parts = [_resent(net, one), owner, _resent(net, two)]
            for index in order:
                assert intake.take(parts[index]).failed == 0
            assert_equal(article)
            assert linked(article) == [f"a{number}", f"b{number}"]

    def test_row_does_not_wait_for_what_it_is_linked_to(self, net):
        a, b = topics("a", "b")
        bodies(net)
        article = master.Article.objects.create(title="x")
        article.topics.add(a, b)
        intake.take(bodies(net))
        assert replica.Article.objects.get().title == "x"
        assert PendingLink.objects.count() == 2
        intake.take(_resent(net, master.Topic.objects.filter(pk=a.pk)))
        assert linked(article) == ["a"] and PendingLink.objects.count() == 1
        article.topics.remove(b)
        intake.take(bodies(net))
        assert not PendingLink.objects.exists()
        intake.take(_resent(net, master.Topic.objects.filter(pk=b.pk)))
        assert linked(article) == ["a"]
        assert_equal(article)

    def test_links_survive_a_late_delete_of_what_came_back(self, net):
        (a,) = topics("a")
        article = master.Article.objects.create(title="x")
        article.topics.add(a)
        net.run()
        pk = a.pk
        a.delete()
        gone = [message for message in _changes(net) if message[0] == "topic"]
        again = master.Topic.objects.create(pk=pk, name="again")
        back = _changes(net)
        article.topics.add(again)
        owner = _changes(net)
        for body in [*owner, *gone, *back]:
            intake.take([body[1]])
        assert linked(article) == ["again"]
        assert_equal(article)

    def test_duplicates_and_old_states_change_nothing(self, net):
        a, b = topics("a", "b")
        article = master.Article.objects.create(title="x")
        net.run()
        article.topics.add(a)
        first = bodies(net)
        article.topics.set([b])
        second = bodies(net)
        for batch in (second, first, second, first + second):
            intake.take(batch)
            assert linked(article) == ["b"]
        assert_equal(article)

    def test_links_of_a_row_that_is_deleted_wait_no_more(self, net):
        (a,) = topics("a")
        bodies(net)
        article = master.Article.objects.create(title="x")
        article.topics.add(a)
        intake.take(bodies(net))
        assert PendingLink.objects.exists()
        article.delete()
        intake.take(bodies(net))
        assert not PendingLink.objects.exists()

    def test_sweep_completes_what_was_missed(self, net):
        (a,) = topics("a")
        bodies(net)
        article = master.Article.objects.create(title="x")
        article.topics.add(a)
        answer = intake.take(bodies(net))
        assert answer.retry_in is not None and answer.retry_in < 1
        values = {"id": a.pk, "name": "a", "cqrs_revision": 0, "cqrs_updated": a.cqrs_updated}
        replica.Topic.objects.bulk_create([replica.Topic(**values)])  # it landed, and nobody saw what waited
        intake.retry_due()
        assert linked(article) == ["a"] and not PendingLink.objects.exists()

    def test_a_value_that_is_no_list_is_set_aside(self, net):
        article = master.Article.objects.create(title="x")
        body = bodies(net)[0]
        for wrong in (b'"topics":7', b'"topics":[null]', b'"topics":[["a"]]', b'"topics":["\\ud800"]'):
            assert intake.take([body.replace(b'"topics":[]', wrong)]).failed == 1
            letter = DeadLetter.objects.get()
            assert "topics" in letter.error_message
            letter.delete()
        intake.take([body])
        assert_equal(article)

    def test_a_message_without_links_leaves_them(self, net):
        (a,) = topics("a")
        article = master.Article.objects.create(title="x")
        article.topics.add(a)
        net.run()
        article.title = "y"
        article.save()
        body = bodies(net)[0].replace(b'"topics":[%d],' % a.pk, b"").replace(b',"topics":[%d]' % a.pk, b"")
        assert b"topics" not in body
        intake.take([body])
        assert linked(article) == ["a"]


def _resent(net, queryset):
    return [message.body for chunk in sync.chunks(queryset) for message in chunk.messages]


def _changes(net):
    net.pump()
    found = [(message.cqrs_id, message.body) for message in net.messages]
    net.messages.clear()
    return found


# --- other ways ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("engine")
class TestOtherWays:
    def test_sync_and_dump_carry_links(self, net):
        a, b = topics("a", "b")
        article = master.Article.objects.create(title="x")
        article.topics.add(a, b)
        OutboxMessage.objects.all().delete()
        for body in [*_resent(net, master.Topic.objects.all()), *_resent(net, master.Article.objects.all())]:
            intake.take([body])
        assert_equal(article)
        lines = [line for part in dumps.parts(master.Article) for line in part.text.splitlines()]
        replica.Article.objects.all().delete()
        dumps.load(dumps.header_of(lines[0]), lines[1:])
        assert_equal(article)
        # A target that is cleared and loaded again has its links again.
        lines = [line for part in dumps.parts(master.Topic) for line in part.text.splitlines()]
        dumps.clear(replica.Topic)
        dumps.load(dumps.header_of(lines[0]), lines[1:])
        assert_equal(article)

    def test_image_of_an_instance(self):
        a, b = topics("a", "b")
        article = master.Article.objects.create(title="x")
        article.topics.add(b, a)
        assert article.to_cqrs_dict()["topics"] == sorted([a.pk, b.pk])

    def test_receivers_of_the_replica_are_told(self, net):
        told = []

        def receiver(action, **kwargs):
            told.append(action)

        (a,) = topics("a")
        article = master.Article.objects.create(title="x")
        article.topics.add(a)
        m2m_changed.connect(receiver, sender=replica.Article.topics.through)
        try:
            net.run()
        finally:
            m2m_changed.disconnect(receiver, sender=replica.Article.topics.through)
        assert told == ["pre_add", "post_add"]
        assert_equal(article)

    @pytest.mark.skipif(services.BY_TRIGGER, reason="triggers raise the revision within the statement")
    def test_link_and_its_revision_are_one_transaction(self, monkeypatch):
        """A process that ends between the two must not leave a link that nobody hears of."""
        land = master.Country.objects.create(iso="NZ", name="New Zealand")
        article = master.Article.objects.create(title="x")

        def end(*args, **kwargs):
            raise Undo

        monkeypatch.setattr("django_cqrs_celery.link_capture.touch", end)
        with pytest.raises(Undo):
            master.Mention.objects.create(article=article, country=land)
        with pytest.raises(Undo):
            article.tickets.add(master.Ticket.objects.create(title="t"))
        assert not master.Mention.objects.exists() and not article.tickets.exists()


def test_what_is_replicated(sqlite):
    assert [field.name for field in links.replicated(master.Article)] == list(FIELDS)
    assert [field.name for field in links.replicated(master.Draft)] == ["topics"]
    assert links.replicated(master.Author) == ()
    assert set(links.received(replica.Draft)) == {"topics"}
