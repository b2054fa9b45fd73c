"""The small time-modulated MLPs of MMDisCo's toy (Table 5), and the sinusoidal time embedding its networks share."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from polyscore.denoisers import State
from polyscore.networks.conditioned import refuse_condition
from polyscore.spec import register

__all__ = ["ModulatedMLP", "SharedMLP", "Sinusoid", "Stack", "ToyDiscriminator"]

SPAN = 6.0
"""Scalars beyond this are not tabulated."""


class Sinusoid(nn.Module):
    """sin then cos of the step number times 10000^(-i / (size/2 - 1)), i = 0..size/2 - 1; the step of time t is t `steps` - 1."""

    def __init__(self, size: int, steps: int = 1000) -> None:
        super().__init__()
        self.steps = steps
        half = size // 2
        self.register_buffer("frequencies", torch.exp(-math.log(10000) * torch.arange(half) / max(1, half - 1)), persistent=False)
        self.frequencies: Tensor

    def forward(self, t: Tensor) -> Tensor:
        """(B,) times in [0, 1] -> (B, size)."""
        angles = (t * self.steps - 1)[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], 1)


class _Block(nn.Module):
    """Linear(SiLU(norm(h) (1 + scale) + shift)), scale and shift from the time."""

    def __init__(self, before: int, after: int, embed: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(before, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(embed, 2 * before))
        self.layer = nn.Linear(before, after)

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        scale, shift = modulation.chunk(2, dim=1)
        return self.layer(nn.functional.silu(torch.addcmul(shift, self.norm(h), 1 + scale)))


class ModulatedMLP(nn.Module):
    """(B, inputs), (B,) times -> (B, outputs): MMDisCo's toy network.

    Sinusoid(embed) -> Linear(embed, 4 embed) -> SiLU -> Linear(4 embed, 4 embed) modulates one block per entry of `channels`.
    Equal times in a batch go through the time path once; `tabulate` stores its values at all the steps of a frozen network
    (98 % of the base model's parameters sit there).

    Args:
        inputs, outputs: dimensions. channels: widths; the stem has the first. embed: size of the sinusoid. steps: of the path.
        zero: start the last layer at 0.
    """

    def __init__(self, inputs: int, channels: Sequence[int], embed: int, outputs: int = 1, steps: int = 500, zero: bool = False) -> None:
        super().__init__()
        wide = 4 * embed
        self.sinusoid = Sinusoid(embed, steps)
        self.time = nn.Sequential(nn.Linear(embed, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.stem = nn.Linear(inputs, channels[0])
        before = [channels[0], *channels[:-1]]
        self.blocks = nn.ModuleList([_Block(a, b, wide) for a, b in zip(before, channels, strict=True)])
        self.head = nn.Linear(channels[-1], outputs)
        if zero:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)
        self._table: list[Tensor] | None = None

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Outputs (B, outputs)."""
        h = self.stem(x)
        for block, modulation in zip(self.blocks, self._modulations(t), strict=True):
            h = block(h, modulation)
        return cast(Tensor, self.head(h))

    @torch.no_grad()
    def tabulate(self) -> None:
        """Store the modulations at every step; for a network that is not trained any more."""
        steps = self.sinusoid.steps
        times = torch.arange(steps + 1, dtype=torch.float32, device=self.stem.weight.device) / steps
        self._table = self._compute(times)

    def train(self, mode: bool = True) -> ModulatedMLP:
        """Training mode forgets the table."""
        if mode:
            self._table = None
        return super().train(mode)

    def _compute(self, t: Tensor) -> list[Tensor]:
        embedding = self.time(self.sinusoid(t))
        return [cast(_Block, block).modulation(embedding) for block in self.blocks]

    def _modulations(self, t: Tensor) -> list[Tensor]:
        if len(t) > 1 and bool((t == t[0]).all()):
            t = t[:1]
        if self._table is not None:
            place = t * self.sinusoid.steps
            rows = place.round()
            if bool(((place - rows).abs() < 1e-3).all()):
                return [table[rows.long()] for table in self._table]
        levels, which = t.unique(return_inverse=True)
        return [m[which] for m in self._compute(levels)] if 2 * len(levels) <= len(t) else self._compute(t)


@register
class SharedMLP(nn.Module):
    """One 1-D network for several scalars apart: network(z, t, condition) -> {name: (B, 1)}; all of them in one call.

    With the defaults the base model of MMDisCo's toy: 2 201 105 parameters.
    """

    def __init__(
        self, names: Sequence[str] = ("x", "y"), channels: Sequence[int] = (16, 64, 256, 64, 16), embed: int = 256, steps: int = 500
    ) -> None:
        super().__init__()
        self.names = list(names)
        self.mlp = ModulatedMLP(1, channels, embed, 1, steps)
        self.values: Tensor | None = None

    def forward(self, z: State, t: Mapping[str, Tensor], condition: Any = None) -> State:
        """Raw outputs of every scalar."""
        x, times = torch.cat([z[name] for name in self.names]), torch.cat([t[name] for name in self.names])
        joined = self._read(x[:, 0], times) if self._known(x, times) else self.mlp(x, times)
        return dict(zip(self.names, joined.chunk(len(self.names)), strict=True))

    @torch.no_grad()
    def tabulate(self, points: int = 8192) -> Tensor:
        """Compute the function of a frozen network on a grid in [-SPAN, SPAN] at every step, (steps + 1, points), and read it from there
        (linear interpolation): a scalar function is cheaper to look up than to evaluate. Other states and times still go through it."""
        self.mlp.tabulate()
        steps, x = self.mlp.sinusoid.steps, torch.linspace(-SPAN, SPAN, points)[:, None]
        self.values = torch.stack([self.mlp(x, torch.full((points,), k / steps))[:, 0] for k in range(steps + 1)])
        return self.values

    def train(self, mode: bool = True) -> SharedMLP:
        """Training mode forgets the table."""
        self.values = None if mode else self.values
        return super().train(mode)

    def _known(self, x: Tensor, t: Tensor) -> bool:
        if self.values is None:
            return False
        place = t * self.mlp.sinusoid.steps
        return bool((x.abs() < SPAN).all()) and bool(((place - place.round()).abs() < 1e-3).all())

    def _read(self, x: Tensor, t: Tensor) -> Tensor:
        assert self.values is not None
        place = (x + SPAN) * ((self.values.shape[1] - 1) / (2 * SPAN))
        left = place.long().clamp(max=self.values.shape[1] - 2)
        rows, part = (t * self.mlp.sinusoid.steps).round().long(), place - left
        return ((1 - part) * self.values[rows, left] + part * self.values[rows, left + 1])[:, None]


@register
class ToyDiscriminator(nn.Module):
    """network(z, t, condition) -> (B,) logits of several vectors at one shared time.

    With the defaults the discriminator of MMDisCo's toy: 171 377 parameters. The last layer starts at 0. It takes no condition.

    Args:
        sizes: of each vector. channels, embed, steps: as in `ModulatedMLP`. waves: frequencies whose sin and cos of every input are inputs.
    """

    def __init__(
        self,
        sizes: Mapping[str, int] | None = None,
        channels: Sequence[int] = (64, 32, 8),
        embed: int = 64,
        steps: int = 500,
        waves: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.sizes, self.waves = dict(sizes or {"x": 1, "y": 1}), tuple(waves)
        inputs = sum(self.sizes.values()) * (1 + 2 * len(self.waves))
        self.mlp = ModulatedMLP(inputs, channels, embed, 1, steps, zero=True)

    def forward(self, z: State, t: Mapping[str, Tensor], condition: Any = None) -> Tensor:
        """Logits; the time is the latest of the modalities' times."""
        refuse_condition(self, condition)
        now = torch.stack([t[name] for name in self.sizes]).amax(0)
        x = torch.cat([z[name].flatten(1) for name in self.sizes], 1)
        angles = [w * x for w in self.waves]
        return cast(Tensor, self.mlp(torch.cat([x, *(a.sin() for a in angles), *(a.cos() for a in angles)], 1), now)[:, 0])


class Stack(nn.Module):
    """K networks of one kind in one call: rows come in K equal parts, part k goes through network k; all parts have the same times.

    Their parameters are stacked, so that one step of an optimiser trains all, each on its own loss.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.count = len(members)
        self.like = [copy.deepcopy(members[0])]  # in a list: its parameters are not this module's
        stacked, _ = torch.func.stack_module_state(list(members))
        self.stacked = nn.ParameterDict({name.replace(".", "-"): nn.Parameter(value.detach()) for name, value in stacked.items()})

    def forward(self, z: State, t: Mapping[str, Tensor], condition: Any = None) -> Tensor:
        """(K B,) outputs of states (K B, *shape)."""
        parts = {name: value.unflatten(0, (self.count, -1)) for name, value in z.items()}
        times = {name: value[: len(value) // self.count] for name, value in t.items()}

        def one(parameters: dict[str, Tensor], own: dict[str, Tensor]) -> Tensor:
            return cast(Tensor, torch.func.functional_call(self.like[0], parameters, (own, times)))

        return torch.func.vmap(one)({name.replace("-", "."): value for name, value in self.stacked.items()}, parts).flatten()

    def member(self, k: int) -> nn.Module:
        """Network k, as it is now."""
        found = copy.deepcopy(self.like[0])
        found.load_state_dict({name.replace("-", "."): value[k].detach() for name, value in self.stacked.items()})
        return found
