"""What the demo prints: headings, one line that refreshes itself, the summary's table."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

BAR_WIDTH = 24
SECONDS_BETWEEN_LINES = 2.0


def say(text: str = "", end: str = "\n") -> None:
    """Print a line at once, also into a pipe; a reader that has gone away stops nothing."""
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process


def bar(done: int, total: int) -> str:
    """A progress bar with its numbers."""
    filled = BAR_WIDTH * min(done, total) // max(total, 1)
    return f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {done:,}/{total:,}"


class LiveLine:
    """A line that is written over on a terminal; elsewhere a new one every two seconds."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._unsaid, self._said_at = "", -SECONDS_BETWEEN_LINES

    def show(self, text: str) -> None:
        """Replace the line."""
        if self._is_terminal:
            say(f"\r\x1b[K{text}", end="")
        elif time.monotonic() - self._said_at >= SECONDS_BETWEEN_LINES:
            say(text)
            self._unsaid, self._said_at = "", time.monotonic()
        else:
            self._unsaid = text

    def end(self) -> None:
        """Leave the last state on the screen."""
        if self._is_terminal:
            say()
        elif self._unsaid:
            say(self._unsaid)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns of even width; the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  " + "   ".join(cells).rstrip())
    return "\n".join(lines)
