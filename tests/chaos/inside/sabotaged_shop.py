"""The settings of the project ``shop``, with traps in it."""

from shop.settings import *  # noqa: F403

INSTALLED_APPS = ["sabotage", "django_cqrs_celery", "shop"]
