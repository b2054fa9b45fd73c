"""Errors a user can cause. Each message is one line: the thing, what was expected, what was found."""

from __future__ import annotations

__all__ = ["CheckpointError", "DataError", "PolyscoreError"]


class PolyscoreError(ValueError):
    """Base of all errors that end the command line with one line and `exit_code`."""

    exit_code = 2


class CheckpointError(PolyscoreError):
    """A checkpoint is missing, truncated, foreign or does not fit."""


class DataError(PolyscoreError):
    """A data file or data set cannot be used."""
