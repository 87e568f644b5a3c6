"""When to try again: pure decisions, no clock and no storage."""

from __future__ import annotations

import random
from dataclasses import dataclass

#: Infrastructure errors (database or broker away) are tried again for ever, this often at the least.
BACKOFF_FIRST = 0.5
BACKOFF_CAP = 15.0


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Try again after ``delay`` seconds."""

    delay: float


@dataclass(frozen=True, kw_only=True)
class GiveUp:
    """Mark the change dead."""


Decision = Retry | GiveUp


def decide(*, should_retry: bool, delay: float) -> Decision:
    """Turn what a model's hooks answered into a decision; a negative delay counts as none."""
    return Retry(delay=max(0.0, float(delay))) if should_retry else GiveUp()


def backoff(attempt: int, *, first: float = BACKOFF_FIRST, cap: float = BACKOFF_CAP) -> float:
    """Seconds before attempt number ``attempt`` (0 is the first retry): doubling, capped, with jitter down to half."""
    ceiling = min(cap, first * 2 ** min(attempt, 32))
    return ceiling * (0.5 + random.random() / 2)
