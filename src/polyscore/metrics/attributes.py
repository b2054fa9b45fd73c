"""Metrics of attribute vectors and masks, and of attacks on what reads them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from polyscore.errors import DataError

__all__ = ["cosine_similarity", "drop", "fgsm", "sample_f1"]


def sample_f1(predicted: Tensor, truth: Tensor) -> float:
    """Mean over samples of 2 |P and T| / (|P| + |T|), the sets of positive entries of one sample; (N, ...) booleans or 0/1.

    A sample without positives on either side counts 0, as scikit-learn's f1_score(average="samples") has it.

    Raises:
        DataError: unequal shapes, or no samples.
    """
    if predicted.shape != truth.shape or not len(truth):
        raise DataError(f"sample F1: expected two arrays of one shape, found {tuple(predicted.shape)} and {tuple(truth.shape)}")
    p, t = predicted.flatten(1).bool(), truth.flatten(1).bool()
    positives = (p.sum(1) + t.sum(1)).double()
    return float((2 * (p & t).sum(1).double() / positives.clamp(min=1)).mean())


def fgsm(loss: Callable[[Tensor], Tensor], x: Tensor, size: float, limits: tuple[float, float] | None = (0.0, 1.0)) -> Tensor:
    """x + size sign(grad loss(x)): the fast gradient sign attack, one step against `loss(x)`, a number to raise.

    `limits` clamps the result to the data's range; None leaves it (the authors of the Score-Based Multimodal Autoencoder do not clamp).
    Source: Goodfellow et al., "Explaining and harnessing adversarial examples", 2015.
    """
    leaf = x.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    attacked = x + size * gradient.sign()
    return attacked if limits is None else attacked.clamp(*limits)


def drop(clean: float, attacked: float) -> float:
    """Share of a score that an attack takes away: (clean - attacked) / clean.

    Raises:
        DataError: a clean score of 0 or less.
    """
    if clean <= 0:
        raise DataError(f"drop: expected a positive score without the attack, found {clean}")
    return (clean - attacked) / clean


def cosine_similarity(a: Tensor, b: Tensor) -> float:
    """Mean over samples of cos(a_i, b_i): of latents recovered from the other modalities and the true ones (paper, Table 7)."""
    return float(torch.nn.functional.cosine_similarity(a.flatten(1).double(), b.flatten(1).double(), dim=1).mean())
