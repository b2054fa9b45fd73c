"""Objective of a classifier: cross-entropy with label smoothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from polyscore.metrics.judges import Judge
from polyscore.training.draws import Draw

__all__ = ["ClassifierObjective"]


@dataclass(frozen=True)
class ClassifierObjective:
    """-sum_k q_k log softmax(logits)_k, q = (1 - smoothing) one-hot(label) + smoothing / K; also logs the accuracy.

    Args:
        modality: the batch entry to classify; the labels are the entry "label".
        smoothing: probability mass spread over all classes.
        change: random change of the data (pictures, waveforms); `change_map`: of the judge's inner map (its spectrogram).
    """

    modality: str
    smoothing: float = 0.05
    change: Callable[[Tensor, Draw], Tensor] | None = None
    change_map: Callable[[Tensor, Draw], Tensor] | None = None

    def __call__(self, module: Judge, batch: Mapping[str, Tensor], draw: Draw) -> dict[str, Tensor]:
        """The loss and the accuracy, means over the batch."""
        x, label = batch[self.modality], batch["label"]
        y = module.prepare(x if self.change is None else self.change(x, draw))
        logits = module.classify(y if self.change_map is None else self.change_map(y, draw))
        loss = functional.cross_entropy(logits, label, label_smoothing=self.smoothing)
        return {"loss": loss, "accuracy": (logits.argmax(1) == label).float().mean()}
