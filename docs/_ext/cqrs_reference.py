"""Directives that write the reference from the code, so that it cannot fall behind.

``.. cqrs-settings:: master`` lists the settings of one part of ``CQRS`` (no argument: the top), and
``.. cqrs-command:: name`` the options of a management command.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import Any

from django_cqrs_celery import conf


def setting_lines(section: str) -> Iterator[str]:
    """The settings of a section as reStructuredText."""
    for setting in conf.SETTINGS:
        if setting.section != section:
            continue
        yield from (f".. _{anchor(setting)}:", "", f"``{setting.path}``")
        yield f"   {setting.doc}"
        yield ""
        yield f"   :Default: ``{setting.default!r}``"
        yield f"   :Expected: {setting.expects}"
        yield ""


def anchor(setting: conf.Setting[Any]) -> str:
    """Name under which other pages refer to a setting."""
    words = ["setting", setting.section, setting.name]
    return "-".join(word for word in words if word).replace("_", "-").lower()


def option_lines(name: str) -> Iterator[str]:
    """The options of a management command as reStructuredText."""
    from django.core.management import load_command_class
    from django.core.management.base import DjangoHelpFormatter

    command = load_command_class("django_cqrs_celery", name)
    parser = command.create_parser("manage.py", name)
    common = DjangoHelpFormatter.show_last
    own = [a for a in parser._actions if not _is_common(a, common)]
    if not own:
        yield "No options of its own."
    for action in own:
        names = ", ".join(f"``{text}``" for text in action.option_strings) or f"``{action.dest}``"
        choices = f" One of {', '.join(f'``{c}``' for c in action.choices)}." if action.choices else ""
        yield f"{names}"
        yield f"   {(action.help or '').replace('*', chr(92) + '*')}{choices}".rstrip()
        yield ""


def _is_common(action: argparse.Action, common: Iterable[str]) -> bool:
    return isinstance(action, argparse._HelpAction) or bool(set(action.option_strings) & {*common, "-v", "--verbosity"})


def setup(app: Any) -> dict[str, Any]:
    """Entry point of Sphinx, which alone needs Sphinx and docutils."""
    from docutils import nodes
    from docutils.statemachine import StringList
    from sphinx.util.docutils import SphinxDirective

    class Generated(SphinxDirective):
        optional_arguments = 1

        def lines(self) -> Iterator[str]:
            raise NotImplementedError

        def run(self) -> list[Any]:
            holder = nodes.container()
            self.state.nested_parse(StringList(list(self.lines()), "generated"), self.content_offset, holder)
            return holder.children

    class Settings(Generated):
        def lines(self) -> Iterator[str]:
            return setting_lines(self.arguments[0] if self.arguments else "")

    class Command(Generated):
        def lines(self) -> Iterator[str]:
            return option_lines(self.arguments[0])

    app.add_directive("cqrs-settings", Settings)
    app.add_directive("cqrs-command", Command)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
