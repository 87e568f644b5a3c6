"""Which of two states of a row is newer: every combination that matters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_cqrs_celery import ordering
from django_cqrs_celery.constants import Outcome, SignalType

SAVE, DELETE, SYNC = SignalType.SAVE, SignalType.DELETE, SignalType.SYNC
CREATED, UPDATED, DELETED = Outcome.CREATED, Outcome.UPDATED, Outcome.DELETED
STALE, DUPLICATE = Outcome.STALE, Outcome.DUPLICATE


@pytest.mark.parametrize(
    ("signal_type", "revision", "known", "tombstone", "force", "outcome"),
    [
        (SAVE, 0, None, None, False, CREATED),
        (SAVE, 5, None, 4, False, CREATED),
        (SAVE, 4, None, 4, False, STALE),
        (SAVE, 3, None, 4, False, STALE),
        (SAVE, 3, 2, None, False, UPDATED),
        (SAVE, 3, 2, 9, False, UPDATED),
        (SAVE, 2, 2, None, False, DUPLICATE),
        (SAVE, 1, 2, None, False, STALE),
        (SYNC, 0, None, None, False, CREATED),
        (SYNC, 2, 2, None, False, UPDATED),
        (SYNC, 1, 2, None, False, STALE),
        (SYNC, 1, 2, None, True, UPDATED),
        (SYNC, 3, None, 4, False, STALE),
        (SYNC, 3, None, 4, True, CREATED),
        (DELETE, 3, 2, None, False, DELETED),
        (DELETE, 2, 2, None, False, STALE),
        (DELETE, 1, 2, None, False, STALE),
        (DELETE, 1, 2, None, True, DELETED),
        (DELETE, 3, None, None, False, DELETED),
        (DELETE, 3, None, 2, False, DELETED),
        (DELETE, 3, None, 3, False, DUPLICATE),
        (DELETE, 3, None, 4, False, DUPLICATE),
    ],
)
def test_decide(signal_type, revision, known, tombstone, force, outcome):
    decision = ordering.decide(
        signal_type=signal_type, revision=revision, known=known, tombstone=tombstone, force=force
    )  # fmt: skip
    assert decision is outcome


#: The history of one row: its revisions rise, a delete has one of its own, a row that comes back continues above it.
histories = st.lists(st.sampled_from([SAVE, SAVE, DELETE]), min_size=1, max_size=8).map(
    lambda kinds: [(kind, revision) for revision, kind in enumerate(kinds)]
)


@given(histories.flatmap(lambda history: st.tuples(st.just(history), st.permutations(history * 2))))
def test_in_any_order_and_twice_the_last_state_stays(data):
    history, arrivals = data
    known = tombstone = None
    for kind, revision in arrivals:
        outcome = ordering.decide(signal_type=kind, revision=revision, known=known, tombstone=tombstone)
        if outcome in (CREATED, UPDATED):
            assert known is None or revision > known
            known = revision
        elif outcome is DELETED:
            known, tombstone = None, max(revision, tombstone if tombstone is not None else revision)
    last_kind, last_revision = history[-1]
    assert known == (None if last_kind is DELETE else last_revision)
