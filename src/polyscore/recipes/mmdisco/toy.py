"""MMDisCo's toy (Sec. 4.1) with trained networks: a base model that knows two marginals, and discriminators that join them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from polyscore.checkpoint import load_module, load_tensors, save_module, save_tensors
from polyscore.denoisers import Denoiser, Expert
from polyscore.guided import Guided
from polyscore.networks.timed import SharedMLP, Stack, ToyDiscriminator
from polyscore.ratios.discriminator import Discriminator
from polyscore.recipes import toy
from polyscore.recipes.mmdisco.ratio import LOSSES
from polyscore.recipes.stored import trained
from polyscore.sampling import sample
from polyscore.training import Draw, TrainConfig, fit
from polyscore.training.discriminator import DiscriminatorObjective, moving_grid, snap
from polyscore.training.fakes import Fakes, make_fakes

__all__ = [
    "BASE_TRAINING",
    "LOSSES",
    "RATIO_TRAINING",
    "SOLVER",
    "WINDOW",
    "ToySize",
    "base_facts",
    "load_base",
    "measure_row",
    "real_points",
    "table_error",
    "train_base",
    "train_ratios",
]

WINDOW = (0.0, 0.7)
"""Above step 350 of 500 even the best discriminator sees nothing (its cross-entropy is 2 log 2), so it is trained and used below."""
SOLVER = "euler_maruyama"
"""Ancestral sampling whose noise has the forward variance. With the exact score (IND, n = 2000, one seed, the same noise) its samples have
.976 of the true variance; with the posterior variance .916."""
BASE_TRAINING = TrainConfig(steps=4000, batch_size=512, lr=1e-3, ema=0.999, checkpoint_every=2000, log_every=500)
RATIO_TRAINING = TrainConfig(steps=1200, batch_size=256, lr=2e-3, ema=0.99, checkpoint_every=1200, log_every=200)


@dataclass(frozen=True)
class ToySize:
    """How much of everything.

    Args:
        real, fakes: points that a discriminator is trained on (500 each, as in Table 5). samples: that a row is measured on.
        steps: of the sampler. channels: of the discriminator; Table 5 has (64, 32, 8). waves: frequencies of its input features.
    """

    real: int = 500
    fakes: int = 500
    samples: int = 2000
    steps: int = 500
    channels: tuple[int, ...] = (64, 64, 64)
    waves: tuple[float, ...] = (1.0, 2.0, 4.0)


@dataclass(frozen=True)
class _BaseObjective:
    """|| eps - eps_theta(x_t, t) ||^2 at `levels` of the 500 steps; their rows share the time path, which holds 98 % of the network."""

    levels: int = 16

    def __call__(self, module: Expert, batch: Tensor, draw: Draw) -> dict[str, Tensor]:
        t = snap(moving_grid(draw, self.levels), module.paths)
        noise = draw.normal(1)
        z = toy.paths()["x"].corrupt(batch, t, noise)
        return {"loss": (module.network.mlp(z, t) - noise).square().mean()}  # type: ignore[union-attr,operator]


def _scalars(draw: Draw) -> Tensor:
    """Fresh points of the 1-D base law, (B, 1)."""
    centres = torch.tensor(toy.BASE, device=draw.device)[draw.integers(len(toy.BASE))]
    return centres[:, None] + toy.VARIANCE**0.5 * draw.normal(1)


def base_facts(config: TrainConfig) -> dict[str, Any]:
    """What is stored with the base model."""
    return {"recipe": "mmdisco-toy", "steps": config.steps, "seed": config.seed, "training": trained(config)}


def train_base(out: str | Path, config: TrainConfig = BASE_TRAINING, progress: bool = True) -> Expert:
    """Train the 1-D base model on its law (fresh points at every step) and save it as `out`/base; it serves x and y, apart."""
    torch.manual_seed(config.seed)
    expert = Expert(SharedMLP(), toy.paths(), {"x": (1,), "y": (1,)}, "eps")
    fit(expert, _scalars, _BaseObjective(), config, out=Path(out) / "run-base", progress=progress)
    save_module(expert, Path(out) / "base", meta=base_facts(config))
    return _frozen(expert)


def load_base(out: str | Path) -> Expert:
    """The saved base model; its values are read from a table, kept as `out`/base-values.safetensors."""
    expert = _frozen(load_module(Path(out) / "base", Expert))
    network, path = cast(SharedMLP, expert.network), Path(out) / "base-values.safetensors"
    if path.exists():
        network.values = load_tensors(path)["values"]
    else:
        save_tensors({"values": network.tabulate()}, path)
    return expert


@torch.no_grad()
def table_error(out: str | Path) -> float:
    """Largest difference between table and network at 1000 noised points of the base law or of a target, at each of 50 steps."""
    base, exact = load_base(out), _frozen(load_module(Path(out) / "base", Expert))
    known = [*_scalars(Draw(1, 0, 500)).flatten().tolist(), *real_points("OOD", 500, 1)["x"].flatten().tolist()]
    worst = 0.0
    for step in range(1, 501, 10):
        t, noise = torch.full((1000,), step / 500), torch.randn(1000, 1, generator=torch.Generator().manual_seed(step))
        z = toy.paths()["x"].corrupt(torch.tensor(known)[:, None], t, noise)
        one, other = (cast(SharedMLP, e.network)({"x": z, "y": z}, {"x": t, "y": t})["x"] for e in (base, exact))
        worst = max(worst, float((one - other).abs().max()))
    return worst


def _frozen(expert: Expert) -> Expert:
    expert.eval().requires_grad_(False)
    cast(SharedMLP, expert.network).mlp.tabulate()
    return expert


def real_points(setting: str, n: int, seed: int) -> dict[str, Tensor]:
    """n points of a target, the same number from each mode: {"x": (n, 1), "y": (n, 1)}."""
    means = torch.tensor(toy.TARGETS[setting])
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(1000 + seed))
    points = means[torch.arange(n) % len(means)] + toy.VARIANCE**0.5 * noise
    return {"x": points[:, :1].contiguous(), "y": points[:, 1:].contiguous()}


def toy_fakes(base: Expert, out: str | Path, size: ToySize, seed: int) -> Fakes:
    """What the base model generates: one folder for both settings."""
    return make_fakes(base, size.fakes, Path(out) / f"fakes-{seed}", seed=7000 + seed, steps=size.steps, solver=SOLVER)


class _Rows:
    """Batches in equal parts, one for each loss: real points and fakes at random, and the weights of the losses."""

    def __init__(self, real: Mapping[str, Tensor], fake: Mapping[str, Tensor], losses: Sequence[str]) -> None:
        self.real, self.fake = real, fake
        self.weights = torch.tensor([LOSSES[loss] for loss in losses])

    def __len__(self) -> int:
        return len(self.real["x"])

    def __call__(self, draw: Draw) -> dict[str, Tensor]:
        """One step's batch."""
        rows, others = draw.integers(len(self)), draw.integers(len(self.fake["x"]))
        weights = self.weights.repeat_interleave(len(draw) // len(self.weights), 0)
        batch = {name: value[rows] for name, value in self.real.items()} | {f"fake.{name}": v[others] for name, v in self.fake.items()}
        return batch | {"weight.adversarial": weights[:, 0], "weight.denoise": weights[:, 1]}


def train_ratios(
    base: Expert,
    setting: str,
    losses: Sequence[str],
    out: str | Path,
    size: ToySize,
    config: TrainConfig = RATIO_TRAINING,
    progress: bool = True,
) -> dict[str, Discriminator]:
    """Train a discriminator for each loss ("disc", "denoise", "all") in one stack and save it as `out`/SETTING-LOSS-SEED/ratio.

    `config.batch_size` counts the real points of each.
    """
    torch.manual_seed(config.seed)
    network = Stack([ToyDiscriminator(channels=size.channels, waves=size.waves) for _ in losses])
    stack = Discriminator(network, base.paths, times=WINDOW)
    made, real = toy_fakes(base, out, size, config.seed), real_points(setting, size.real, config.seed)
    objective = DiscriminatorObjective(base, dropout=0.0, high=WINDOW[1], grid=16)
    name = f"{setting}-{'-'.join(losses)}-{config.seed}"
    wide = replace(config, batch_size=config.batch_size * len(losses))
    fit(stack, _Rows(real, made.states, losses), objective, wide, out=Path(out) / f"run-{name}", progress=progress)
    found = {loss: Discriminator(network.member(k), base.paths, times=WINDOW).eval() for k, loss in enumerate(losses)}
    for loss, ratio in found.items():
        meta = {"recipe": "mmdisco-toy", "loss": loss, "training": asdict(config), "objective": objective.settings()}
        save_module(ratio, Path(out) / f"{setting}-{loss}-{config.seed}" / "ratio", meta=meta)
    return found


def measure_row(out: str | Path, setting: str, ratio: Discriminator | None, size: ToySize | None = None, seed: int = 0) -> dict[str, Any]:
    """Sample the base model guided by a ratio (None: the base alone) and measure; `out` holds the base model.

    Returns:
        The measures of `polyscore.recipes.toy.measure`, and the points (n, 2).
    """
    size = size or ToySize()
    base = load_base(out)
    denoiser: Denoiser = base if ratio is None else Guided(base, ratio)
    points = toy.points(sample(denoiser, size.samples, steps=size.steps, solver=SOLVER, seed=seed, batch_size=1000))
    reference = toy.points(toy.target(setting).draw(size.samples, torch.Generator().manual_seed(99 + seed)))
    found: Mapping[str, Any] = toy.measure(points, setting, reference)
    return {**found, "points": points}
