"""Progress of a long command: a bar with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Any

#: Seconds between two lines where there is no terminal.
_LINE_SECONDS = 5.0
_BAR_WIDTH = 30


class Progress:
    """Shows how far ``total`` rows have come; ``total`` None where it is not known."""

    def __init__(self, stream: Any, total: int | None, label: str) -> None:
        self.stream, self.total, self.label = stream, total, label
        self.started = time.monotonic()
        self.shown = 0.0
        self.is_terminal = bool(getattr(stream, "isatty", lambda: False)())

    def show(self, done: int, *, last: bool = False) -> None:
        """Draw the present state, not more often than makes sense."""
        now = time.monotonic()
        if not last and now - self.shown < (0.1 if self.is_terminal else _LINE_SECONDS):
            return
        self.shown = now
        rate = done / max(now - self.started, 1e-6)
        text = f"{self.label}: {done:,}" + (f" of {self.total:,}" if self.total is not None else "")
        text += f" rows, {rate:,.0f} rows/s"
        if self.total and not last and rate:
            text += f", {max(0, self.total - done) / rate:,.0f} s left"
        if self.is_terminal:
            filled = int(_BAR_WIDTH * min(1.0, done / self.total)) if self.total else 0
            bar = "#" * filled + "." * (_BAR_WIDTH - filled)
            self.stream.write(f"\r[{bar}] {text}   " + ("\n" if last else ""), ending="")
            self.stream.flush()
        else:
            self.stream.write(text)
