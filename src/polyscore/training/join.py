"""Train a discriminator that joins frozen experts: held-out measures, early stopping, one call from fakes to a saved ratio."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polyscore.checkpoint import load_state, load_tensors, save_module, save_tensors
from polyscore.conditions import by_modality
from polyscore.denoisers import Denoiser
from polyscore.errors import PolyscoreError
from polyscore.files import write_text
from polyscore.ratios.discriminator import Discriminator
from polyscore.training.config import TrainConfig
from polyscore.training.discriminator import DiscriminatorObjective, RealAndFake
from polyscore.training.draws import Draw
from polyscore.training.fakes import Fakes, slice_condition, weights_digest
from polyscore.training.loop import fit
from polyscore.training.scalars import Window, as_sums

__all__ = ["JOIN_TRAINING", "held_out_losses", "train_discriminator"]

JOIN_TRAINING = TrainConfig(steps=3000, batch_size=256, lr=1e-3, ema=0.999, checkpoint_every=500, log_every=100)


def train_discriminator(
    base: Denoiser,
    real: Mapping[str, Tensor],
    fakes: Fakes,
    out: str | os.PathLike[str],
    *,
    network: nn.Module | None = None,
    condition: Any = None,
    objective: DiscriminatorObjective | None = None,
    config: TrainConfig = JOIN_TRAINING,
    held_out: float = 0.1,
    patience: int | None = None,
    progress: bool = True,
    facts: Mapping[str, Any] | None = None,
    other_fakes: bool = False,
) -> Discriminator:
    """Train D on real tuples against fakes of the frozen experts and save it as `out`/ratio.json and .safetensors.

        fakes = make_fakes(Independent(audio, video), 1000, "runs/fakes", steps=20)
        ratio = train_discriminator(Independent(audio, video), {"audio": za, "video": zv}, fakes, "runs/join")
        joint = Guided(Independent(audio, video), ratio)

    Args:
        base: the experts, as they made the fakes. real: {modality: latents (N, *shape)}, rows belong together.
        fakes: what `make_fakes` gave. network: by default `default_network`, which takes what the conditions are.
        condition: of the reals, like the fakes' own (tensor (N, ...), or a mapping of such by modality).
        objective: by default L_disc + L_den. config: of the training; a review of the held-out data is made every `checkpoint_every` steps.
        held_out: share of reals and fakes kept apart. patience: stop after so many reviews without a lower held-out loss, and take the
            weights of the best one; None trains to the end and takes the last.
        facts: more that must be the same when a run resumes.
        other_fakes: accept fakes that other experts made (the ratio then is relative to those).

    Raises:
        PolyscoreError: data that do not fit together; fakes of other experts; a condition that the network cannot use; or as
            `polyscore.training.fit`.
    """
    objective = objective or DiscriminatorObjective(base)
    condition = by_modality(base, condition)
    _check(base, real)
    if not other_fakes:
        _check_fakes(base, fakes)
    if network is None:
        from polyscore.networks.ratio import default_network

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = default_network({name: tuple(value.shape[1:]) for name, value in real.items()}, condition, fakes.condition)
    paths = {name: base.paths[name] for name in real}
    times = None if (objective.low, objective.high) == (0.0, 1.0) else (objective.low, objective.high)
    module = Discriminator(network, paths, apart=objective.observed > 0, times=times)
    seen, kept = _split(real, condition, fakes, held_out, config.seed)
    for parameter in base.parameters():
        parameter.requires_grad_(False)
    reviewer = _Reviewer(Path(out), objective, kept, patience)
    identity = {"objective": objective.settings(), "held_out": held_out, "data": _digest(seen.real), **dict(facts or {})}
    fit(module, seen, objective, config, out=Path(out) / "run", progress=progress, facts=identity, review=reviewer if kept else None)
    if patience is not None and reviewer.best.exists():
        load_state(module, load_tensors(reviewer.best), reviewer.best)
    meta = {"fakes": {k: v for k, v in fakes.manifest.items() if k != "shards"}, "fakes_used": len(fakes), "training": asdict(config)}
    meta |= {"reals_used": len(next(iter(real.values())))}
    meta |= {"objective": objective.settings(), "held_out": held_out_losses(module, objective, kept) if kept else {}}
    save_module(module.eval(), Path(out) / "ratio", meta=meta)
    return module


def held_out_losses(
    module: Discriminator, objective: DiscriminatorObjective, data: RealAndFake, rounds: int = 8, batch_size: int = 512, seed: int = 12345
) -> dict[str, float]:
    """The objective's losses and logs on other data, without training: means over rounds of a fixed seed. L_den is always measured."""
    was = module.training
    module.eval()
    window = Window()
    full = replace(objective, denoise=objective.denoise or 1.0, adversarial=objective.adversarial or 1.0, pairings=0)
    with torch.no_grad():
        for number in range(rounds):
            draw = Draw(seed, number, min(batch_size, 4 * len(data)))
            _, sums = as_sums(full(module, data(draw), draw), len(draw))
            window.add({name: (float(pair[0]), float(pair[1])) for name, pair in sums.items()})
    module.train(was)
    found = window.means()
    denoise = sum(value for name, value in found.items() if name.startswith("denoise.") and "[" not in name)
    return found | {"denoise": denoise, "loss": objective.adversarial * found["bce"] + objective.denoise * denoise}


class _Reviewer:
    """Measures held-out losses at every checkpoint, keeps the best weights, and says when to stop."""

    def __init__(self, out: Path, objective: DiscriminatorObjective, data: RealAndFake | None, patience: int | None) -> None:
        self.best, self.log = out / "best.safetensors", out / "reviews.json"
        self.objective, self.data, self.patience = objective, data, patience

    def __call__(self, step: int, module: Discriminator) -> bool:
        assert self.data is not None
        before = [r for r in self._read() if r["step"] < step]
        now = {"step": step, **held_out_losses(module, self.objective, self.data)}
        if now["loss"] < min((r["loss"] for r in before), default=math.inf):
            save_tensors({k: v.detach().cpu() for k, v in module.state_dict().items()}, self.best)
        reviews = [*before, now]
        write_text(self.log, json.dumps(reviews, indent=1) + "\n")
        best = min(range(len(reviews)), key=lambda i: reviews[i]["loss"])
        return self.patience is not None and len(reviews) - 1 - best >= self.patience

    def _read(self) -> list[dict[str, float]]:
        if not self.log.exists():
            return []
        found: list[dict[str, float]] = json.loads(self.log.read_text(encoding="utf-8"))
        return found


def _check(base: Denoiser, real: Mapping[str, Tensor]) -> None:
    for name, value in real.items():
        if name.endswith("_missing") and name not in base.paths:
            raise PolyscoreError(f"discriminator: real tuples with {name}; expected complete ones (leave out those that miss a modality)")
        if name not in base.paths:
            raise PolyscoreError(f"discriminator: real data of modality {name!r}, but the experts have {sorted(base.paths)}")
        if tuple(value.shape[1:]) != tuple(base.shapes[name]):
            raise PolyscoreError(f"discriminator: real {name!r} of shape {tuple(value.shape[1:])}, expected {tuple(base.shapes[name])}")


def _check_fakes(base: Denoiser, fakes: Fakes) -> None:
    made, own = fakes.manifest.get("denoiser"), weights_digest(base)
    if made is not None and made != own:
        raise PolyscoreError(
            f"discriminator: fakes made by other experts (digest {made[:12]}..., expected the base's {own[:12]}...); "
            "make them again with the base, or accept them with other_fakes=True"
        )


def _split(real: Mapping[str, Tensor], condition: Any, fakes: Fakes, share: float, seed: int) -> tuple[RealAndFake, RealAndFake | None]:
    """Training and held-out rows of reals and fakes."""
    generator = torch.Generator().manual_seed(seed)
    total = len(next(iter(real.values())))
    rows, others = torch.randperm(total, generator=generator), torch.randperm(len(fakes), generator=generator)
    a, b = math.ceil(total * share), math.ceil(len(fakes) * share)

    def part(reals: Tensor, made: Tensor) -> RealAndFake:
        return RealAndFake(
            {name: value[reals] for name, value in real.items()},
            {name: fakes.states[name][made] for name in fakes.states},
            slice_condition(condition, reals),
            slice_condition(fakes.condition, made),
        )

    return part(rows[a:], others[b:]), part(rows[:a], others[:b]) if a and b else None


def _digest(real: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(real.items()):
        digest.update(name.encode() + value[:64].detach().cpu().contiguous().numpy().tobytes())
    return f"{len(next(iter(real.values())))} rows, {digest.hexdigest()[:16]}"
