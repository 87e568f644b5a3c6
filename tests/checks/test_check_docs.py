"""Every check id has its heading in the reference, and every heading its check."""

from __future__ import annotations

import re
from pathlib import Path

import django_cqrs_celery

PACKAGE = Path(django_cqrs_celery.__file__).parent
REFERENCE = PACKAGE.parent / "docs" / "reference" / "checks.rst"
TESTS = Path(__file__).parent


def _used() -> set[str]:
    sources = [path.read_text() for path in PACKAGE.glob("checks*.py")]
    return {number for source in sources for number in re.findall(r'"([EW]\d{3})"', source)}


def test_ids_and_headings_are_the_same():
    headings = re.findall(r"^django_cqrs_celery\.([EW]\d{3})\n~+$", REFERENCE.read_text(), re.MULTILINE)
    assert len(headings) == len(set(headings))
    assert _used() == set(headings) != set()


def test_no_number_is_used_twice():
    used = _used()
    assert len({number[1:] for number in used}) == len(used)


def test_every_id_has_a_test():
    tested = {n for path in TESTS.glob("test_*.py") for n in re.findall(r'"([EW]\d{3})"', path.read_text())}
    assert _used() == tested
