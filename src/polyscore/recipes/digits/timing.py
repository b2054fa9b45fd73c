"""Where the time of a joint sampling goes, and the same run through diffusers' own solver. CPU seconds of one thread."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from polyscore.networks.mlp import JointDenoiser
from polyscore.paths import Linear, Path
from polyscore.recipes.digits.joint import Network
from polyscore.recipes.tables import Measured
from polyscore.sampling import Streams, sample

__all__ = ["PAIRS", "SHAPES", "STEPS", "against_diffusers", "denoiser", "import_seconds", "overhead", "rows"]

SHAPES = {"image": (20,), "speech": (22,)}
PAIRS, STEPS = 64, 20


def denoiser(path: Path | None = None) -> JointDenoiser:
    """A joint denoiser of the recipe's size with random weights (time does not depend on training)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = JointDenoiser(SHAPES, path, **asdict(Network()))
        for module in model.modules():
            if isinstance(module, nn.Linear) and not module.weight.any():
                nn.init.normal_(module.weight, std=0.05)
    return model.eval()


def _median(run: Callable[[], Any], repeats: int) -> float:
    """Median CPU seconds of a call."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return statistics.median(times)


class _Stopwatch:
    """CPU seconds spent inside a network."""

    def __init__(self, network: nn.Module) -> None:
        self.total = self.start = 0.0
        self.hooks = [network.register_forward_pre_hook(self._begin), network.register_forward_hook(self._end)]

    def _begin(self, *_: Any) -> None:
        self.start = time.process_time()

    def _end(self, *_: Any) -> None:
        self.total += time.process_time() - self.start


def overhead(repeats: int = 15, seed: int = 0) -> tuple[float, float]:
    """(seconds in the network, seconds in everything else) of one joint sampling of 64 pairs in 20 steps: medians over repeats."""
    model = denoiser()
    inside, outside = [], []
    sample(model, PAIRS, steps=STEPS, seed=seed)
    for _ in range(repeats):
        watch = _Stopwatch(model.network)
        start = time.process_time()
        sample(model, PAIRS, steps=STEPS, seed=seed)
        total = time.process_time() - start
        for hook in watch.hooks:
            hook.remove()
        inside.append(watch.total)
        outside.append(total - watch.total)
    return statistics.median(inside), statistics.median(outside)


def against_diffusers(repeats: int = 15, seed: int = 0) -> dict[str, float]:
    """DPM-Solver++ (2M) in 20 steps on one network: largest gap of the samples over their largest size, and seconds of both.

    diffusers runs on the concatenated latents, its loop as in a pipeline: set_timesteps, noise, 20 calls and steps.
    """
    import diffusers

    from polyscore.adapters.schedulers import schedule_of

    model = denoiser(Linear())
    scheduler: Any = diffusers.DPMSolverMultistepScheduler(prediction_type="v_prediction")
    schedule = schedule_of(scheduler, STEPS)
    grid = list(schedule.times)
    sizes = [shape[0] for shape in SHAPES.values()]

    def network(z: Tensor, step: Tensor) -> Tensor:
        state = dict(zip(SHAPES, z.split(sizes, 1), strict=True))
        found: dict[str, Tensor] = model.network(state, dict.fromkeys(SHAPES, (step.expand(PAIRS) + 1) / 1000))
        return torch.cat([found[name] for name in SHAPES], 1)

    def theirs(start: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            scheduler.set_timesteps(STEPS)
            z = torch.randn(PAIRS, sum(sizes), generator=torch.Generator().manual_seed(seed)) if start is None else start
            for step in scheduler.timesteps:
                z = scheduler.step(network(z, step), step, z, return_dict=False)[0]
            return z

    def ours() -> Tensor:
        found = sample(model, PAIRS, grid=grid, seed=seed)
        return torch.cat([found[name] for name in SHAPES], 1)

    streams = Streams(seed, range(PAIRS))
    start = torch.cat([schedule.path.start(grid[0], name, shape, streams) for name, shape in SHAPES.items()], 1)
    wanted, found = theirs(start), ours()
    pairs = [(_median(ours, 1), _median(theirs, 1)) for _ in range(repeats)]
    return {
        "gap": float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1)),
        "ours": statistics.median(a for a, _ in pairs),
        "diffusers": statistics.median(b for _, b in pairs),
    }


def import_seconds() -> float:
    """CPU seconds of `import polyscore` after `import torch`, in a fresh process."""
    code = "import time, torch\nstart = time.process_time()\nimport polyscore\nprint(time.process_time() - start)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def rows(rounds: int = 5, repeats: int = 15) -> list[Measured]:
    """The timing rows; each value is one round, itself a median over repeats."""
    split = [overhead(repeats, seed) for seed in range(rounds)]
    both = [against_diffusers(repeats, seed) for seed in range(rounds)]
    return [
        Measured("everything but the network, share of a 20-step joint sampling of 64 pairs", [b / (a + b) for a, b in split], ("<=", 0.1)),
        Measured("seconds of a 20-step joint sampling of 64 pairs", [a + b for a, b in split]),
        Measured(
            "time over that of diffusers' DPMSolverMultistepScheduler, same network and grid",
            [b["ours"] / b["diffusers"] for b in both],
            ("<=", 1.0),
            f"diffusers: {statistics.median(b['diffusers'] for b in both):.3f} s",
        ),
        Measured("largest gap of those samples from diffusers', in millionths of their size", [1e6 * b["gap"] for b in both], ("<=", 100)),
        Measured("seconds of `import polyscore` beyond `import torch`", [import_seconds() for _ in range(rounds)], ("<=", 0.5)),
    ]
