"""Sphinx's settings. ``sphinx-build -W -b html docs docs/_build/html``"""

import sys
from pathlib import Path

import django
from django.conf import settings

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.admin", "django_cqrs_celery"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    USE_TZ=True,
)
django.setup()

from django_cqrs_celery import __version__  # noqa: E402  (needs Django's set-up)

project = "django-cqrs-celery"
author = "The django-cqrs-celery developers"
copyright = f"2026, {author}"
version = release = __version__

extensions = ["sphinx.ext.autodoc", "cqrs_reference"]
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"description": "Copies of Django models, carried by Celery", "page_width": "1060px"}
pygments_style = "friendly"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
