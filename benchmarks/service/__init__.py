"""The Django project that both libraries run in: ``BENCH_SIDE`` says which service it is."""

from benchmarks.environment import LIBRARY, OURS

if LIBRARY == OURS:
    from benchmarks.service.celery import app as celery_app  # noqa: F401
