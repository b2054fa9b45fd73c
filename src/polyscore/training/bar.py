"""The progress bar of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

__all__ = ["progress_bar"]


@contextlib.contextmanager
def progress_bar(name: str, steps: int, wanted: bool) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """A function of (step, scalars) that draws a bar on standard error; it does nothing if not wanted or not on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=console, disable=not (wanted and console.is_terminal)) as shown:
        task = shown.add_task(name, total=steps, loss="")

        def move(step: int, scalars: Mapping[str, float]) -> None:
            loss = f"loss {scalars['loss']:.4g}" if "loss" in scalars else ""
            shown.update(task, completed=step, loss=loss)

        yield move
