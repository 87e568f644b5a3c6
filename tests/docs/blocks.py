"""The code blocks of a reStructuredText page, and a runner that does what they say.

The first line of a block tells what it is::

    # shop/catalog/models.py                            a file
    # shop/shop/settings.py, at the end                 lines to add to a file
    # python manage.py shell, in shop/                  typed into the shell of a project
    # in shop/                                          commands
    # in shop/, in a terminal of its own                a command that stays

A ``text`` block after one that was typed into the shell, or after commands, is what they print.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_DIRECTIVE = re.compile(r"^(?P<indent> *)\.\. code-block:: (?P<language>\w+)\s*$")
FILE = re.compile(r"^# (?P<path>\S+\.py)(?P<append>, at the end)?$")
TYPED = re.compile(r"^# python manage\.py shell, in (?P<directory>\S+)$")
COMMANDS = re.compile(
    r"^# in (?P<directory>\S+/|an empty directory|the clone)"
    r"(?P<stays>, in a terminal of its own|, each in a terminal of its own)?$"
)


@dataclass(frozen=True)
class Block:
    """One code block: where it stands, its language and its text."""

    path: Path
    line: int
    language: str
    text: str

    @property
    def first_line(self) -> str:
        return self.text.split("\n", 1)[0]

    def __str__(self) -> str:
        return f"{os.path.relpath(self.path, ROOT)}:{self.line}"


def blocks(path: Path) -> Iterator[Block]:
    """The ``code-block`` directives of a page, in order."""
    lines = path.read_text().splitlines()
    number = 0
    while number < len(lines):
        match = _DIRECTIVE.match(lines[number])
        number += 1
        if match is None:
            continue
        begin, indent = number, len(match["indent"])
        body = []
        while number < len(lines) and (not lines[number].strip() or _indent(lines[number]) > indent):
            body.append(lines[number])
            number += 1
        kept = [line for line in body if not re.match(r"^ +:\w+:", line)] if body and body[0].strip() else body
        yield Block(path, begin, match["language"], textwrap.dedent("\n".join(kept)).strip("\n") + "\n")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def command_lines(block: Block) -> list[str]:
    """The commands of a block, each in one line."""
    text = block.text.replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


#: What differs from run to run, and how it looks.
_VARIES = re.compile(r"(?P<time>\d{4}-\d\d-\d\dT[\d:.]+\+00:00)|(?P<bytes>\d+)(?= bytes)|(?P<rest>…)")
_LOOKS = {"time": r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", "bytes": r"\d+", "rest": ".*"}


def prints(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed.

    A time stands for any time and a number of bytes for any number; ``…`` stands for the rest of a line, and in a line
    of its own for any number of lines. Everything else is as it is.
    """
    pattern = "".join(_pattern(line.rstrip()) for line in shown.strip("\n").splitlines())
    text = "".join(f"{line.rstrip()}\n" for line in printed.strip("\n").splitlines())
    return re.fullmatch(pattern, text) is not None


def _pattern(line: str) -> str:
    if line == "…":
        return r"(?:.*\n)*?"
    pattern, end = "", 0
    for found in _VARIES.finditer(line):
        pattern += re.escape(line[end : found.start()]) + _LOOKS[found.lastgroup or ""]
        end = found.end()
    return pattern + re.escape(line[end:]) + r"\n"
