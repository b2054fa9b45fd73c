"""Where diffusers has the same solver, ours gives the same trajectory on the same network: every step, to 1e-4 of its size."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from torch import nn

from polyscore.adapters.schedulers import schedule_of
from polyscore.denoisers import Expert
from polyscore.networks.mlp import JointMLP
from polyscore.sampling import DDIM, DPMpp, Heun, Streams, sample
from polyscore.sampling.solvers import NoisyDPMpp

LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
SDE = {"algorithm_type": "sde-dpmsolver++"}
RUNS: list[tuple[str, dict[str, Any], dict[str, Any], Any]] = [
    ("DDIMScheduler", {"clip_sample": False}, {"eta": 0.0}, DDIM(0.0)),
    ("DDIMScheduler", {"clip_sample": False, **LATENT, "timestep_spacing": "trailing"}, {"eta": 0.5}, DDIM(0.5)),
    ("DDIMScheduler", {"clip_sample": False, "prediction_type": "v_prediction"}, {"eta": 1.0}, DDIM(1.0)),
    ("DDPMScheduler", {"clip_sample": False, "variance_type": "fixed_small"}, {}, DDIM(1.0)),
    ("DDPMScheduler", {"clip_sample": False, "prediction_type": "sample", **LATENT}, {}, DDIM(1.0)),
    ("DPMSolverMultistepScheduler", {"solver_order": 1}, {}, DPMpp(1)),
    ("DPMSolverMultistepScheduler", {"solver_order": 2, **LATENT}, {}, DPMpp(2)),
    ("DPMSolverMultistepScheduler", {"solver_order": 2, "prediction_type": "v_prediction", "use_karras_sigmas": True}, {}, DPMpp(2)),
    ("DPMSolverMultistepScheduler", {"solver_order": 2, "flow_shift": 3.0, **FLOW}, {}, DPMpp(2)),
    ("DPMSolverMultistepScheduler", {"solver_order": 3, **LATENT}, {}, DPMpp(3)),
    ("DPMSolverMultistepScheduler", {"solver_order": 3, "prediction_type": "sample"}, {}, DPMpp(3)),
    ("DPMSolverMultistepScheduler", {"solver_order": 2, **SDE, **LATENT}, {}, NoisyDPMpp(1.0)),
    ("EulerDiscreteScheduler", {**LATENT}, {}, DDIM(0.0)),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True, "prediction_type": "v_prediction"}, {}, DDIM(0.0)),
    ("HeunDiscreteScheduler", {**LATENT}, {}, Heun()),
    ("HeunDiscreteScheduler", {"use_karras_sigmas": True}, {}, Heun()),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, {}, DDIM(0.0)),
    ("FlowMatchHeunDiscreteScheduler", {}, {}, Heun()),
]
_KIND = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = JointMLP({"x": (6,)}, width=16, depth=2, hidden=16, embed=16)
        for module in net.modules():
            if isinstance(module, nn.Linear) and not module.weight.any():
                nn.init.normal_(module.weight, std=0.3)
    return net.double().eval()


class Shared(nn.Module):
    """One network for both: it is told the path's time t, which a scheduler's timestep is turned into."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, z, t, condition=None):
        return self.net(z, {"x": t["x"].clamp(max=1 - 1e-9)})


def theirs(scheduler, schedule, net, start, streams, extra):
    """Every state of a diffusers loop, in our scale; its noise is ours."""
    states, z = [], start * schedule.scale(0)
    name = "x"
    draws = iter(lambda: streams.normal(name, (6,)), None)
    for i, step in enumerate(scheduler.timesteps):
        t = torch.full((len(z),), schedule.times[i], dtype=torch.float64)
        seen = scheduler.scale_model_input(z, step) if schedule.sigma_space else z
        raw = net({"x": seen}, {"x": t})["x"]
        with pytest.MonkeyPatch.context() as patch:
            for module in ("ddpm", "ddim", "dpmsolver_multistep"):
                patch.setattr(f"diffusers.schedulers.scheduling_{module}.randn_tensor", lambda *a, **k: next(draws), raising=False)
            z = scheduler.step(raw, step, z, return_dict=False, **extra)[0]
        states.append(z / schedule.scale(i + 1))
    return states


@pytest.mark.parametrize("steps", [8, 20])
@pytest.mark.parametrize(("name", "options", "extra", "solver"), RUNS, ids=lambda v: v if isinstance(v, str) else "")
def test_trajectory(name, options, extra, solver, steps) -> None:
    scheduler = getattr(diffusers, name)(**options)
    schedule = schedule_of(scheduler, steps)
    kind = "flow" if "Flow" in name else _KIND[options.get("prediction_type", "epsilon")]
    net = Shared()
    model = Expert(net, {"x": schedule.path}, {"x": (6,)}, kind)
    # Heun's schedulers list every inner level twice; ours calls there by itself.
    grid = list(schedule.times)
    if isinstance(solver, Heun):
        grid = [t for i, t in enumerate(grid) if i == 0 or grid[i - 1] - t > 1e-6]
    ours: list[torch.Tensor] = []
    sample(model, 5, solver=solver, grid=grid, seed=2, dtype=torch.float64, callback=lambda step: ours.append(step.z["x"]))
    streams = Streams(2, range(5), dtype=torch.float64)
    start = schedule.path.start(schedule.times[0], "x", (6,), streams)
    with torch.no_grad():
        expected = theirs(scheduler, schedule, net, start, streams, extra)
    if isinstance(solver, Heun):
        expected = [*expected[1:-1:2], expected[-1]]
    assert len(ours) == len(expected)
    for found, wanted in zip(ours, expected, strict=True):
        assert float((found - wanted).abs().max()) < 1e-4 * max(1.0, float(wanted.abs().max()))
