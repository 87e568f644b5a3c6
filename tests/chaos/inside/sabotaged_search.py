"""The settings of the project ``search``, with traps in it."""

from search.settings import *  # noqa: F403

INSTALLED_APPS = ["sabotage", "django_cqrs_celery", "search"]
