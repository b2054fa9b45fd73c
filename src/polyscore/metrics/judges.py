"""Judges: classifiers that say what a generated picture or sound shows, and give features for Frechet distances."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from polyscore.codecs.base import Codec
from polyscore.spec import register

__all__ = ["Judge", "accuracy", "mean_accuracy", "predict"]


@register
class Judge(nn.Module):
    """Data (B, ...) -> logits (B, classes), through features (B, width) that are also good for Frechet distances.

    Args:
        body: network from prepared data to features.
        width: number of features.
        classes: number of classes.
        front: codec whose `encode` prepares the data (a log-mel spectrogram for waveforms); None leaves it as it is.
        dropout: on the features, in training.
    """

    def __init__(self, body: nn.Module, width: int, classes: int = 10, front: Codec | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.body, self.front, self.width = body, front, width
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of data."""
        return self.classify(self.prepare(x))

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features (B, width) of data."""
        return self._features(self.prepare(x))

    def prepare(self, x: Tensor) -> Tensor:
        """What the network reads: the front codec's latent, or the data."""
        return x if self.front is None else self.front.encode(x)

    def classify(self, prepared: Tensor) -> Tensor:
        """Logits of prepared data."""
        return cast(Tensor, self.head(self._features(prepared)))

    def _features(self, prepared: Tensor) -> Tensor:
        return functional.silu(self.body(prepared))


@torch.no_grad()
def predict(judge: Judge, x: Tensor, batch_size: int = 256) -> tuple[Tensor, Tensor]:
    """Labels (N,) and features (N, width) of data, in batches."""
    features = torch.cat([judge.features(part) for part in x.split(batch_size)])
    return judge.head(features).argmax(1), features


def accuracy(judge: Judge, x: Tensor, labels: Tensor) -> float:
    """Share of items that the judge gives their label."""
    return float((predict(judge, x)[0] == labels).double().mean())


def mean_accuracy(judge: Judge, x: Tensor, labels: Tensor) -> float:
    """The accuracy of each class, averaged over the classes that there are."""
    seen = predict(judge, x)[0]
    return float(torch.stack([(seen[labels == k] == k).double().mean() for k in labels.unique().tolist()]).mean())
