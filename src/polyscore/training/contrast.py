"""Objective of a token denoiser: the variational bound, an auxiliary likelihood, and contrast with negatives (CDCD)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from polyscore.denoisers import Expert
from polyscore.errors import PolyscoreError
from polyscore.paths import expand
from polyscore.predictions import TokenPrediction
from polyscore.tokens.bound import Bound
from polyscore.tokens.paths import TokenPath
from polyscore.tokens.times import ImportanceTimes, falling, rising
from polyscore.training.draws import Draw
from polyscore.training.negatives import chunk_shuffle

__all__ = ["TokenObjective", "infonce", "subtracted"]

Kind = Literal["none", "step", "sample"]
Condition = Tensor | dict[str, Tensor] | None


def subtracted(negative: Tensor, valid: Tensor, guard: float) -> Tensor:
    """-(1/N) sum_j min(C_j, guard) over valid negatives, C (B, N) in nats a token: the reference form of CDCD (Eq. 11, Alg. 1).

    Without the guard it is unbounded below; at the guard a negative is unlikely enough and pushes no more.
    """
    kept = torch.where(valid, negative.clamp(max=guard), torch.zeros_like(negative))
    return -kept.sum(1) / valid.sum(1).clamp(min=1)


def infonce(positive: Tensor, negative: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """log(1 + sum_j exp((C_+ - C_j) / temperature)), C in nats a token: bounded below by 0, log(1 + N) when all are alike."""
    gap = ((positive[:, None] - negative) / temperature).masked_fill(~valid, -torch.inf)
    return torch.logsumexp(torch.cat([torch.zeros_like(positive)[:, None], gap], 1), 1)


@dataclass(frozen=True)
class TokenObjective:
    """E_t (1/p_t) [V_t + auxiliary w_a A_t + weight w_c R_t] / L in nats a token, t one of `steps` indices.

    V_t = KL(q(z_s | z_t, z_0) || p(z_s | z_t)) (-log p(z_0 | z_1) at the first index), A_t = -log p(z_0 | z_t), both in O(L) memory. R_t
    contrasts z_0 with negatives: "step" by V_t, "sample" by A_t; with `intra` negatives (chunks of z_0 in another order) and `inter`
    ones (other examples, from the batch entry "negatives", (B, N, L)). At a masked position of an absorbing path V_t is
    (gamma_t - gamma_s) / gamma_t times A_t.

    Source: Zhu et al. 2023 (CDCD), Eqs. 3, 4 and 11, with 1/N where Eq. 9f derives log N (invalid); Gu et al. 2022 (VQ-Diffusion).

    Args:
        modality: the batch entry.
        steps: T, time indices of the loss.
        auxiliary: weight of the auxiliary likelihood, with w_a = 2 - t/T.
        rising_auxiliary: w_a = 1 + t/T instead.
        intra: loss that contrasts with the example itself out of order: none, step or sample.
        inter: loss that contrasts with other examples: none, step or sample.
        form: "infonce" (bounded, with a temperature) or "subtracted" (the reference).
        weight: lambda of the contrast, with w_c = 1 + t/T. Its default, and those of form and temperature, measured best on a held seed
            (`evaluate cdcd-class`); the paper has "subtracted" and 5e-5.
        temperature: tau of "infonce", in nats a token.
        ramp: steps of training over which lambda rises from 0.
        chunks: of an intra negative.
        shuffles: number of intra negatives.
        parallel: each "step" negative has its own z_t (the paper; N more evaluations); else the positive's (the authors' code).
        share: of samples that get the contrast, over `share`, so that its mean stays (T_c / T of the paper).
        guard: nats a token beyond which a negative of "subtracted" pushes no more.
        importance: draw t in proportion to the loss it had (`ImportanceTimes`, which `fit` keeps in the run).
        label_dropout: how often the condition is left out, for guidance.
        condition: the batch entry that is the condition, or None.
        features: more entries of the condition, which then is a mapping with "label"; left out they are all zeros.
    """

    modality: str
    steps: int = 100
    auxiliary: float = 5e-4
    rising_auxiliary: bool = False
    intra: Kind = "none"
    inter: Kind = "none"
    form: Literal["subtracted", "infonce"] = "infonce"
    weight: float = 5e-2
    temperature: float = 1.0
    ramp: int = 0
    chunks: int = 8
    shuffles: int = 4
    parallel: bool = False
    share: float = 1.0
    guard: float = 10.0
    importance: bool = False
    label_dropout: float = 0.1
    condition: str | None = "label"
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.temperature <= 0 or self.steps < 1:
            raise PolyscoreError("contrast: expected share in (0, 1], temperature > 0 and steps >= 1")

    def parts(self) -> dict[str, nn.Module]:
        """What it learns itself while a module trains: the times of importance sampling."""
        return {"times": ImportanceTimes(self.steps)} if self.importance else {}

    def __call__(self, module: Expert, batch: Mapping[str, Tensor], draw: Draw) -> dict[str, Any]:
        """The loss and its parts, means over the batch."""
        clean = batch[self.modality]
        path = cast(TokenPath, module.paths[self.modality])
        index, p = self._times(module, draw)
        s, t = index.double() / self.steps, (index.double() + 1) / self.steps
        z = path.corrupt(clean, t, draw.uniform(*clean.shape[1:], 2))
        condition = self._condition(batch, draw)
        bound = self._bound(module, z, s, t, condition)
        size = clean.shape[1]
        V, A = bound.divergence(clean) / size, bound.nll(clean) / size
        by = (rising if self.rising_auxiliary else falling)(index.float(), self.steps)
        total = V + self.auxiliary * by * A
        logs: dict[str, Any] = {"bound": V.mean() * self.steps, "nll": A.mean()}
        if self.weight and (self.intra != "none" or self.inter != "none"):
            term, more = self._contrast(module, batch, draw, bound, condition, s, t)
            total = total + self.weight * min(1.0, draw.step / max(self.ramp, 1e-9)) * rising(index.float(), self.steps) * term
            logs |= more
        if self.importance:
            cast(ImportanceTimes, module.times).update(index, V.detach())
        return {"loss": (total / p).mean(), **{k: v.detach() for k, v in logs.items()}}

    def _times(self, module: Expert, draw: Draw) -> tuple[Tensor, Tensor]:
        uniform = draw.stratified()
        if not self.importance:
            return (uniform * self.steps).long().clamp(max=self.steps - 1), torch.full_like(uniform, 1 / self.steps)
        times = getattr(module, "times", None)
        if not isinstance(times, ImportanceTimes) or times.steps != self.steps:
            raise PolyscoreError(f"importance sampling of t: expected module.times = ImportanceTimes({self.steps}), which `fit` makes")
        return times.draw(uniform)

    def _condition(self, batch: Mapping[str, Tensor], draw: Draw) -> Condition:
        if self.condition is None:
            return None
        gone = draw.uniform() < self.label_dropout
        label = torch.where(gone, -1, batch[self.condition])
        if not self.features:
            return label
        return {"label": label} | {name: expand((~gone).float(), batch[name]) * batch[name] for name in self.features}  # type: ignore[operator]

    def _bound(self, module: Expert, z: Tensor, s: Tensor, t: Tensor, condition: Condition) -> Bound:
        said = cast(TokenPrediction, module({self.modality: z}, {self.modality: t}, condition)[self.modality])
        return Bound(cast(TokenPath, module.paths[self.modality]), said.log_probs, z, s, t)

    def _contrast(
        self, module: Expert, batch: Mapping[str, Tensor], draw: Draw, bound: Bound, condition: Condition, s: Tensor, t: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """R_t of every sample and what is logged of it."""
        clean = batch[self.modality]
        negatives: dict[str, Tensor] = {}
        if self.intra != "none":
            negatives["intra"] = chunk_shuffle(clean, draw.uniform(self.shuffles, self.chunks))
        if self.inter != "none":
            if "negatives" not in batch:
                raise PolyscoreError('contrast: expected a batch entry "negatives" (B, N, L) for inter negatives, found none')
            negatives["inter"] = batch["negatives"]
        total = torch.zeros_like(t, dtype=torch.float32)
        logs: dict[str, Tensor] = {}
        for name, others in negatives.items():
            kind = self.intra if name == "intra" else self.inter
            valid = (others != clean.unsqueeze(1)).any(2)
            positive = (bound.divergence(clean) if kind == "step" else bound.nll(clean)) / clean.shape[1]
            negative = self._each(module, kind, bound, others, condition, s, t, draw) / clean.shape[1]
            if self.form == "subtracted":
                total = total + subtracted(negative, valid, self.guard)
            else:
                total = total + infonce(positive, negative, valid, self.temperature)
            logs |= {f"{name}_negative": negative.mean(), f"{name}_guarded": (negative > self.guard).float().mean()}
        if self.share < 1:
            total = total * (draw.uniform() < self.share) / self.share
        return total, logs

    def _each(
        self, module: Expert, kind: Kind, bound: Bound, others: Tensor, condition: Condition, s: Tensor, t: Tensor, draw: Draw
    ) -> Tensor:
        """C of every negative, (B, N), in nats."""
        if kind == "sample":
            return bound.nll(others)
        if not self.parallel:
            return bound.divergence(others)
        rows, many, length = others.shape
        flat = others.reshape(rows * many, length)
        late, early = t.repeat_interleave(many), s.repeat_interleave(many)
        z = cast(TokenPath, module.paths[self.modality]).corrupt(flat, late, draw.uniform(many, length, 2).reshape(rows * many, length, 2))
        wide = _repeated(condition, many)
        return self._bound(module, z, early, late, wide).divergence(flat).reshape(rows, many)


def _repeated(condition: Condition, many: int) -> Condition:
    if isinstance(condition, dict):
        return {name: value.repeat_interleave(many, 0) for name, value in condition.items()}
    return None if condition is None else condition.repeat_interleave(many, 0)
