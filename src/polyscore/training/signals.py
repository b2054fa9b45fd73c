"""Ctrl-C and termination: finish the step, save, then stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from polyscore.errors import PolyscoreError

__all__ = ["TrainingInterruptedError"]


class TrainingInterruptedError(PolyscoreError):
    """Training was asked to stop (Ctrl-C, SIGTERM); its state is saved and running the same command again resumes it."""

    exit_code = 130


class StopRequest:
    """While the block runs, the first SIGINT or SIGTERM sets `asked`; a second SIGINT raises KeyboardInterrupt if `impatient`.

    `accelerate launch` forwards Ctrl-C to processes that have already received it, so many processes are not impatient.
    """

    def __init__(self, impatient: bool = True) -> None:
        self.asked = False
        self.impatient = impatient
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and self.impatient and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
