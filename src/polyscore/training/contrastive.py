"""Objective of contrastive encoders: symmetric InfoNCE over all pairs of modalities."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from polyscore.ratios.contrastive import ContrastiveEncoder
from polyscore.training.draws import Draw, Samples, present

__all__ = ["ContrastiveObjective", "Groups"]


class Groups:
    """Batches of groups of `size` tuples, {name: (B, size, ...)}: a group is one row, so its members may be compared.

    Raises:
        DataError: as `Samples`.
    """

    def __init__(self, tensors: Mapping[str, Tensor], size: int = 64) -> None:
        self.samples, self.size = Samples(tensors), size

    def __len__(self) -> int:
        return len(self.samples)

    def __call__(self, draw: Draw) -> dict[str, Tensor]:
        """A step's groups."""
        rows = draw.integers(len(self), self.size).cpu()
        return {name: value[rows] for name, value in self.samples.tensors.items()}


@dataclass(frozen=True)
class ContrastiveObjective:
    """-log exp(s e_i . f_i) / sum_j exp(s e_i . f_j), both ways, mean over ordered pairs of modalities; j runs over the group.

    s = exp(log_scale) is learned, at most `largest`. At the optimum s e_i . f_j is the pair's pointwise mutual information up to a
    function of i (van den Oord et al. 2018); tuples of a group that share a class count as negatives all the same. Entries `NAME_missing`
    (B, G) mark tuples without NAME, which take part in no pair of it.

    Args:
        jitter: for entries of posterior means and standard deviations (B, G, 2, *shape): scale of the posterior's noise.
    """

    jitter: float = 1.0
    largest: float = 50.0

    def __call__(self, module: ContrastiveEncoder, batch: Mapping[str, Tensor], draw: Draw) -> dict[str, Tensor]:
        """The loss, and the share of tuples whose partner is nearest."""
        z, groups = {}, 0
        for name, shape in module.shapes.items():
            value = batch[name]
            groups, members = value.shape[:2]
            if value.ndim == len(shape) + 3:
                value = value[:, :, 0] + self.jitter * value[:, :, 1] * draw.normal(members, *shape)
            z[name] = value.flatten(0, 1)
        e = {name: x.unflatten(0, (groups, -1)) for name, x in module(z).items()}
        scale = module.log_scale.exp().clamp(max=self.largest)
        here = {name: present(batch, f"{name}_missing", x[..., 0]) for name, x in e.items()}
        losses, hits = [], []
        for a, b in itertools.permutations(e, 2):
            logits = scale * e[a] @ e[b].transpose(1, 2)
            logits = logits.masked_fill(~here[b][:, None], -1e4)
            target = torch.arange(logits.shape[1], device=logits.device).expand(groups, -1)
            each = functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view_as(target)
            both = here[a] & here[b]
            losses.append(torch.where(both, each, 0.0).sum() / both.sum().clamp(min=1))
            hits.append((logits.argmax(2) == target).float().mean())
        return {"loss": torch.stack(losses).mean(), "nearest": torch.stack(hits).mean().detach(), "scale": scale.detach()}
