"""MMDisCo's toy (Sec. 4.1) with trained networks: a base model that knows two marginals, and discriminators that join them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.checkpoint import load_module, save_module
from polyscore.denoisers import Denoiser, Expert
from polyscore.guided import Guided
from polyscore.networks.timed import SharedMLP, ToyDiscriminator
from polyscore.ratios.discriminator import Discriminator
from polyscore.recipes import toy
from polyscore.sampling import sample
from polyscore.training import Draw, TrainConfig, fit
from polyscore.training.discriminator import DiscriminatorObjective, moving_grid, snap
from polyscore.training.fakes import Fakes, make_fakes
from polyscore.training.join import train_discriminator

__all__ = [
    "BASE_TRAINING",
    "LOSSES",
    "RATIO_TRAINING",
    "WINDOW",
    "ToySize",
    "load_base",
    "real_points",
    "run_row",
    "train_base",
    "train_ratio",
]

LOSSES = {"disc": (1.0, 0.0), "denoise": (0.0, 1.0), "all": (1.0, 1.0)}
"""The weights of L_disc and L_den in the three trained rows of Table 1; lambda is 1."""
WINDOW = (0.0, 0.7)
"""Above step 350 of 500 even the best discriminator sees nothing (its cross-entropy is 2 log 2), so it is trained and used below."""
BASE_TRAINING = TrainConfig(steps=6000, batch_size=512, lr=1e-3, ema=0.999, checkpoint_every=2000, log_every=500)
RATIO_TRAINING = TrainConfig(steps=2500, batch_size=256, lr=1e-3, ema=0.998, checkpoint_every=2500, log_every=250)


@dataclass(frozen=True)
class ToySize:
    """How much of everything.

    Args:
        real, fakes: points that a discriminator is trained on (500 each, as in Table 5). samples: that a row is measured on.
        steps: of DDPM. channels: of the discriminator; Table 5 has (64, 32, 8).
    """

    real: int = 500
    fakes: int = 500
    samples: int = 4000
    steps: int = 500
    channels: tuple[int, ...] = (128, 128, 128)


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


def train_base(out: str | Path, config: TrainConfig = BASE_TRAINING, progress: bool = True) -> Expert:
    """Train the 1-D base model on its law (fresh points at every step) and save it as `out`/base; it serves x and y, apart."""
    torch.manual_seed(config.seed)
    expert = Expert(SharedMLP(), toy.paths(), {"x": (1,), "y": (1,)}, "eps")
    fit(expert, _scalars, _BaseObjective(), config, out=Path(out) / "run-base", progress=progress)
    save_module(expert, Path(out) / "base", meta={"recipe": "mmdisco-toy", "steps": config.steps, "seed": config.seed})
    return _frozen(expert)


def load_base(out: str | Path) -> Expert:
    """The saved base model, its time path tabulated."""
    return _frozen(load_module(Path(out) / "base", Expert))


def _frozen(expert: Expert) -> Expert:
    expert.eval().requires_grad_(False)
    expert.network.mlp.tabulate()  # type: ignore[union-attr,operator]
    return expert


def real_points(setting: str, n: int, seed: int) -> dict[str, Tensor]:
    """n points of a target, the same number from each mode: {"x": (n, 1), "y": (n, 1)}."""
    means = torch.tensor(toy.TARGETS[setting])
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(1000 + seed))
    points = means[torch.arange(n) % len(means)] + toy.VARIANCE**0.5 * noise
    return {"x": points[:, :1].contiguous(), "y": points[:, 1:].contiguous()}


def toy_fakes(base: Expert, out: str | Path, size: ToySize, seed: int) -> Fakes:
    """What the base model generates: one folder for both settings."""
    return make_fakes(base, size.fakes, Path(out) / f"fakes-{seed}", seed=7000 + seed, steps=size.steps, solver="ddpm")


def train_ratio(
    base: Expert,
    setting: str,
    loss: str,
    out: str | Path,
    size: ToySize,
    config: TrainConfig = RATIO_TRAINING,
    progress: bool = True,
) -> Discriminator:
    """Train the discriminator of one row ("disc", "denoise" or "all") and save it as `out`/SETTING-LOSS-SEED/ratio."""
    torch.manual_seed(config.seed)
    network = ToyDiscriminator(channels=size.channels)
    adversarial, denoise = LOSSES[loss]
    objective = DiscriminatorObjective(base, adversarial, denoise, dropout=0.0, high=WINDOW[1], grid=16)
    made = toy_fakes(base, out, size, config.seed)
    real = real_points(setting, size.real, config.seed)
    folder = Path(out) / f"{setting}-{loss}-{config.seed}"
    return train_discriminator(
        base, real, made, folder, network=network, objective=objective, config=config, held_out=0.0, progress=progress
    )


def run_row(
    out: str | Path, setting: str, loss: str | None, size: ToySize | None = None, config: TrainConfig = RATIO_TRAINING, seed: int = 0
) -> dict[str, Any]:
    """Train (unless `loss` is None: the base alone) and measure one row of Table 1 for one seed; `out` holds the base model.

    Returns:
        The measures of `polyscore.recipes.toy.measure`, the points (n, 2), and CPU seconds of training and sampling.
    """
    size = size or ToySize()
    base = load_base(out)
    start = time.process_time()
    denoiser: Denoiser = base
    if loss is not None:
        ratio = train_ratio(base, setting, loss, out, size, replace(config, seed=seed), progress=False)
        denoiser = Guided(base, ratio, window=WINDOW)
    trained = time.process_time()
    points = toy.points(sample(denoiser, size.samples, steps=size.steps, solver="ddpm", seed=seed))
    reference = toy.points(toy.target(setting).draw(size.samples, torch.Generator().manual_seed(99 + seed)))
    found: Mapping[str, Any] = toy.measure(points, setting, reference)
    return {**found, "points": points, "training_seconds": trained - start, "sampling_seconds": time.process_time() - trained}
