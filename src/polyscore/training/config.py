"""How to train: the hyperparameters every objective shares."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from polyscore.errors import PolyscoreError

__all__ = ["TrainConfig"]

# May change between a run and its continuation.
_FREE = ("steps", "checkpoint_every", "log_every")


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The learning rate rises linearly over `warmup` steps, then stays or falls to 0 as a half cosine.

    Args:
        steps: optimiser steps in all; a finished run continues when it grows.
        batch_size: samples per step over all processes.
        lr, beta2, weight_decay: AdamW (beta1 = 0.9).
        clip: largest gradient norm; None leaves gradients alone.
        ema: decay of the moving average of the weights; 0 turns it off.
        precision: "bf16" computes the objective under autocast; weights stay as they are.
        checkpoint_every, log_every: in steps.
    """

    steps: int = 10_000
    batch_size: int = 128
    lr: float = 1e-3
    warmup: int = 100
    schedule: Literal["cosine", "constant"] = "cosine"
    beta2: float = 0.999
    weight_decay: float = 0.0
    clip: float | None = 1.0
    ema: float = 0.999
    precision: Literal["no", "bf16"] = "no"
    seed: int = 0
    checkpoint_every: int = 500
    log_every: int = 50

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every", "log_every"):
            self._require(name, getattr(self, name) >= 1, "1 or more")
        for name in ("warmup", "weight_decay", "seed"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("lr", 0 < self.lr < math.inf, "a positive number")
        self._require("clip", self.clip is None or self.clip > 0, "a positive number or None")
        self._require("ema", 0 <= self.ema < 1, "a number in [0, 1)")
        self._require("beta2", 0 <= self.beta2 < 1, "a number in [0, 1)")
        self._require("schedule", self.schedule in ("cosine", "constant"), "cosine or constant")
        self._require("precision", self.precision in ("no", "bf16"), "no or bf16")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise PolyscoreError(f"{name}: expected {expected}, found {getattr(self, name)!r}")

    def fixed(self) -> dict[str, Any]:
        """The fields that must stay when a run resumes."""
        return {name: value for name, value in asdict(self).items() if name not in _FREE}

    def rate(self, step: int) -> float:
        """Learning rate of step `step` (from 0): lr min(1, (step+1)/(warmup+1)) * (1 + cos(pi step/steps))/2."""
        fall = 0.5 * (1 + math.cos(math.pi * step / self.steps)) if self.schedule == "cosine" else 1.0
        return self.lr * min(1.0, (step + 1) / (self.warmup + 1)) * fall
