"""Tokens that describe what another denoiser makes: base law times a learned reading of it."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from polyscore.denoisers import AnyPrediction, Denoiser, State, Times, inside
from polyscore.errors import PolyscoreError
from polyscore.predictions import Prediction, TokenPrediction
from polyscore.ratios.base import Ratio
from polyscore.spec import register
from polyscore.tokens.paths import TokenPath

__all__ = ["Captioned", "Reading"]


class Reading(Ratio):
    """log p(w_t | z_t) of the visible tokens of a sequence w_t, by the chain rule: sum_i log p(w^i | visible w^j with j < i, z_t).

    What is masked has probability gamma whatever z is, so the visible tokens carry all. All terms are one call of L times the rows.

    Args:
        reader: a denoiser of the tokens that sees z. name: the tokens' modality, on an absorbing path.
    """

    def __init__(self, reader: Denoiser, name: str) -> None:
        super().__init__()
        self.reader, self.name = reader, name
        self.paths = {k: v for k, v in reader.paths.items() if k != name}

    def forward(self, z: State, t: Times, condition: Any = None) -> Tensor:
        """Nats, (B,)."""
        words = z[self.name].flatten(1)
        rows, length = words.shape
        mask = cast(TokenPath, self.reader.paths[self.name]).mask
        visible = words != mask
        before = torch.ones(length, length, dtype=torch.bool, device=words.device).tril(-1)
        shown = torch.where(before, words[:, None], mask).flatten(0, 1)
        count = (before & visible[:, None]).sum(-1).flatten()
        wide = {k: v.repeat_interleave(length, 0) for k, v in z.items() if k in self.reader.paths and k != self.name}
        clocks = {k: _wide(t[k], rows, length, words.device) for k in wide}
        own = {self.name: shown.reshape(rows * length, *self.reader.shapes[self.name])}
        said = self.reader(wide | own, clocks | {self.name: 1 - count / length}, condition)[self.name]
        log_probs = cast(TokenPrediction, said).log_probs.reshape(rows, length, length, -1).diagonal(dim1=1, dim2=2).transpose(1, 2)
        each = log_probs.gather(-1, words.masked_fill(~visible, 0).unsqueeze(-1)).squeeze(-1)
        return (each * visible).sum(1)


@register
class Captioned(Denoiser):
    """Density: p(z) p(w | z)^scale: a denoiser of z that is only read, and a small reader of tokens w that looks at z at any noise level.

    For each Gaussian modality m: eps_m - S_m scale grad_m log p(w_t | z_t); for the tokens: the reader's p(w_0 | w_t, z_t). At scale 1 it
    is exact if the reader is; above 1 the noised law is not p_t p(w_t | z_t)^scale exactly (biased, as in `Guided`). An observed modality
    is not moved; tokens that are all masked cost no gradient. The base is never differentiated.

    Args:
        denoiser: of z. reader: a denoiser over z's modalities (some or all, on the same paths) and the tokens on an absorbing path.
        name: the tokens' modality. scale: of the gradient. window: the times [low, high] in which it acts.
    """

    def __init__(
        self, denoiser: Denoiser, reader: Denoiser, name: str = "word", scale: float = 1.0, window: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        super().__init__()
        path = reader.paths.get(name)
        if not (isinstance(path, TokenPath) and path.masks) or name in denoiser.paths:
            raise PolyscoreError(f"Captioned: expected {name!r} as a masked token modality of the reader alone, found {path}")
        self.denoiser, self.name, self.scale, self.window = denoiser, name, scale, (window[0], window[1])
        self.reading = Reading(reader, name)
        self.reading.check(denoiser.paths)
        self.paths = {**denoiser.paths, name: path}
        self.shapes = {**denoiser.shapes, name: reader.shapes[name]}
        self.spaces = denoiser.spaces

    def forward(self, z: State, t: Times, condition: Any = None) -> dict[str, AnyPrediction]:
        """The base's predictions pulled towards the visible tokens, and the reader's tokens."""
        base = {k: z[k] for k in self.denoiser.paths}
        found: dict[str, AnyPrediction] = dict(self.denoiser(base, {k: t[k] for k in base}, condition))
        reader = self.reading.reader
        found[self.name] = reader({k: z[k] for k in reader.paths}, {k: t[k] for k in reader.paths}, condition)[self.name]
        moving = [k for k in self.reading.paths or {} if isinstance(found[k], Prediction) and _moving(t[k])]
        visible = bool((z[self.name] != cast(TokenPath, self.paths[self.name]).mask).any())
        if self.scale == 0 or not moving or not visible or inside(self.window, [t[k] for k in moving]) is False:
            return found
        gradient = self.reading.gradient(z, t, condition, moving)
        return found | {k: cast(Prediction, found[k]).shifted(self.scale * gradient[k]) for k in moving}

    def on(self, denoiser: Denoiser) -> Captioned:
        """The same reader on another base with the same modalities, a guided one for example."""
        return Captioned(denoiser, self.reading.reader, self.name, self.scale, self.window)

    @property
    def approximations(self) -> list[str]:
        """Why there is no one density whose noised levels particles could weigh."""
        return [] if self.scale == 1 and self.window == (0.0, 1.0) else [f"the reading has scale {self.scale:g} in {list(self.window)}"]


def _wide(t: Any, rows: int, times: int, device: torch.device) -> Tensor:
    if isinstance(t, Tensor):
        return t.to(device).expand(rows).repeat_interleave(times)
    return torch.full((rows * times,), float(t), device=device)


def _moving(t: Any) -> bool:
    return bool((t > 0).any()) if isinstance(t, Tensor) else t > 0
