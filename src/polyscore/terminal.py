"""What commands say on a terminal: a line, and a bar for long work."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["progress", "say"]


def say(message: Any) -> None:
    """Print a line or a rich table on standard output; of several processes, only the main one does."""
    from rich.console import Console

    if os.environ.get("RANK", "0") != "0":
        return
    Console(soft_wrap=True).print(message, highlight=False, markup=False)


@contextlib.contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar fed by (done, total) on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0":
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
