"""Paths, grids and solvers of diffusers schedulers, against the schedulers themselves."""

from __future__ import annotations

import math
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from polyscore.adapters.experts import NetworkExpert
from polyscore.adapters.schedulers import PowerVE, convention_of, path_of, prediction_of, schedule_of
from polyscore.adapters.solvers import FromScheduler, solver_of
from polyscore.checkpoint import from_spec, to_spec
from polyscore.errors import PolyscoreError
from polyscore.paths import RectifiedFlow, Tabulated
from polyscore.sampling import Streams, sample

LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def make(name: str, **options: Any) -> Any:
    return getattr(diffusers, name)(**options)


TABLES = [
    make("DDPMScheduler"),
    make("DDPMScheduler", beta_schedule="squaredcos_cap_v2"),
    make("DDIMScheduler", **LATENT),
    make("DDIMScheduler", **LATENT, rescale_betas_zero_snr=True),
    make("PNDMScheduler", **LATENT),
    make("DPMSolverMultistepScheduler", **LATENT),
    make("UniPCMultistepScheduler", beta_schedule="linear"),
    make("CogVideoXDDIMScheduler"),
]


@pytest.mark.parametrize("scheduler", TABLES, ids=lambda s: type(s).__name__)
def test_tables_have_the_schedulers_own_noising(scheduler: Any) -> None:
    path = path_of(scheduler)
    assert isinstance(path, Tabulated)
    clean, noise = torch.randn(5, 3), torch.randn(5, 3)
    steps = torch.tensor([0, 1, 100, 500, 999])
    expected = scheduler.alphas_cumprod[steps, None] ** 0.5 * clean + (1 - scheduler.alphas_cumprod[steps, None]) ** 0.5 * noise
    if not isinstance(scheduler, diffusers.DPMSolverMultistepScheduler | diffusers.UniPCMultistepScheduler):
        expected = scheduler.add_noise(clean, noise, steps)
    t = torch.as_tensor([float(path.time_of_index(int(i))) for i in steps], dtype=torch.float64)
    assert (path.corrupt(clean, t, noise) - expected).abs().max() < 1e-5
    assert torch.equal(torch.as_tensor(convention_of(scheduler).timestep(path, t)).long(), steps)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler", "KDPM2DiscreteScheduler"])
def test_sigma_space_is_ours_divided_by_A(name: str) -> None:
    scheduler = make(name, **LATENT)
    schedule = schedule_of(scheduler, 10)
    assert schedule.sigma_space
    clean, noise = torch.randn(1, 3), torch.randn(1, 3)
    for i in (0, 4, 8):
        own = scheduler.add_noise(clean, noise, scheduler.timesteps[i : i + 1])
        if name == "KDPM2DiscreteScheduler":  # its add_noise takes the sigma after the level of the call
            continue
        ours = schedule.path.corrupt(clean, schedule.times[i], noise) * schedule.scale(i)
        assert (ours - own).abs().max() < 1e-4 * own.abs().max()


def test_edm_is_variance_exploding() -> None:
    scheduler = make("EDMEulerScheduler", sigma_max=80.0, prediction_type="epsilon")
    schedule = schedule_of(scheduler, 8)
    assert isinstance(schedule.path, PowerVE)
    for sigma, t in zip(scheduler.sigmas.tolist(), schedule.times, strict=True):
        A, S = schedule.path.coefficients(t)
        assert A == 1
        assert math.isclose(S, sigma, rel_tol=1e-6, abs_tol=1e-9)
    for told, t in zip(schedule.timesteps, schedule.times, strict=False):
        assert float(convention_of(scheduler).timestep(schedule.path, t)) == pytest.approx(told, abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"shift": 3.0}, {"use_dynamic_shifting": True}, {"shift_terminal": 0.1}])
def test_flow_matching_with_static_and_dynamic_shift(options: dict[str, Any]) -> None:
    scheduler = make("FlowMatchEulerDiscreteScheduler", **options)
    mu = 0.7 if options.get("use_dynamic_shifting") else None
    schedule = schedule_of(scheduler, 7, mu=mu)
    assert isinstance(schedule.path, RectifiedFlow)
    assert schedule.path.shift == pytest.approx(math.exp(0.7) if mu else options.get("shift", 1.0))
    clean, noise = torch.randn(1, 3), torch.randn(1, 3)
    for i, told in enumerate(schedule.timesteps):
        own = scheduler.scale_noise(clean, scheduler.timesteps[i : i + 1], noise)
        assert (schedule.path.corrupt(clean, schedule.times[i], noise) - own).abs().max() < 1e-5
        assert float(convention_of(scheduler).timestep(schedule.path, schedule.times[i])) == pytest.approx(told, abs=1e-3)


@pytest.mark.parametrize(
    "path", [PowerVE(80.0), path_of(make("DDIMScheduler", **LATENT)), path_of(make("FlowMatchEulerDiscreteScheduler", shift=3.0))], ids=repr
)
def test_log_snr_has_its_inverse_and_checkpoints_can_name_the_path(path: Any) -> None:
    for t in (0.0105, 0.3003, 0.7707, 0.9905):
        assert path.time_of(path.log_snr(t)) == pytest.approx(t, abs=1e-9)
        h = 1e-6
        for own, end, start in zip(path.derivatives(t), path.coefficients(t + h), path.coefficients(t - h), strict=True):
            assert own == pytest.approx((end - start) / (2 * h), rel=1e-3, abs=1e-5)
    assert from_spec(to_spec(path)) == path


def test_prediction_types() -> None:
    told = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
    assert {k: prediction_of(make("DDIMScheduler", prediction_type=k)) for k in told} == told
    assert prediction_of(make("FlowMatchEulerDiscreteScheduler")) == "flow"
    assert prediction_of(make("UniPCMultistepScheduler", prediction_type="flow_prediction", use_flow_sigmas=True)) == "flow"
    assert prediction_of(make("EDMEulerScheduler")) == "edm"


def test_what_has_no_path_is_refused() -> None:
    with pytest.raises(PolyscoreError, match="IPNDMScheduler: no Gaussian path"):
        path_of(make("IPNDMScheduler"))


class Toy:
    """A smooth function of state and time, in the place of a network."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.mix = torch.randn(6, 6, generator=generator) * 0.3

    def __call__(self, z: Tensor, timestep: Tensor, condition: Any = None) -> Tensor:
        return torch.tanh(self.mix @ z) * torch.cos(timestep.float()[:, None, None] / 300) + 0.5 * z


RUNS: list[tuple[str, dict[str, Any]]] = [
    ("DDIMScheduler", {**LATENT, "set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False}),
    ("DDIMScheduler", {**LATENT, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}),
    ("DDIMScheduler", {**LATENT, "prediction_type": "sample", "thresholding": True}),
    ("DDPMScheduler", {}),
    ("DDPMScheduler", {"prediction_type": "v_prediction", "clip_sample": False}),
    ("PNDMScheduler", {**LATENT, "skip_prk_steps": True, "steps_offset": 1}),
    ("PNDMScheduler", {**LATENT, "skip_prk_steps": False}),
    ("EulerDiscreteScheduler", {**LATENT}),
    ("EulerDiscreteScheduler", {**LATENT, "use_karras_sigmas": True, "prediction_type": "v_prediction"}),
    ("EulerDiscreteScheduler", {**LATENT, "timestep_spacing": "leading", "steps_offset": 1}),
    ("EulerAncestralDiscreteScheduler", {**LATENT}),
    ("HeunDiscreteScheduler", {**LATENT}),
    ("LMSDiscreteScheduler", {**LATENT}),
    ("KDPM2DiscreteScheduler", {**LATENT}),
    ("KDPM2AncestralDiscreteScheduler", {**LATENT}),
    ("DPMSolverMultistepScheduler", {**LATENT}),
    ("DPMSolverMultistepScheduler", {**LATENT, "use_karras_sigmas": True}),
    ("DPMSolverMultistepScheduler", {**LATENT, "solver_order": 3}),
    ("DPMSolverMultistepScheduler", {**LATENT, "algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}),
    ("DPMSolverSinglestepScheduler", {**LATENT}),
    ("DEISMultistepScheduler", {**LATENT}),
    ("SASolverScheduler", {**LATENT}),
    ("UniPCMultistepScheduler", {**LATENT}),
    ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}),
    ("LCMScheduler", {**LATENT}),
    ("TCDScheduler", {**LATENT}),
    ("EDMEulerScheduler", {}),
    ("EDMEulerScheduler", {"prediction_type": "v_prediction", "sigma_schedule": "exponential"}),
    ("EDMDPMSolverMultistepScheduler", {}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ("FlowMatchHeunDiscreteScheduler", {}),
]


def theirs(scheduler: Any, noise: Tensor, seed: int) -> Tensor:
    """The loop of a diffusers pipeline, with polyscore's random numbers."""
    from polyscore.adapters.solvers import _draws
    from polyscore.sampling.noise import mix

    toy, state = Toy(), noise * getattr(scheduler, "init_noise_sigma", 1.0)
    generators = [torch.Generator().manual_seed(mix(seed, i, "image", "scheduler")) for i in range(len(noise))]
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(state, t) if hasattr(scheduler, "scale_model_input") else state
        raw = toy(seen, t.reshape(1))
        more = {"generator": generators} if _draws(scheduler) else {}
        state = scheduler.step(raw, t, state, return_dict=False, **more)[0]
    return state


@pytest.mark.parametrize(("name", "options"), RUNS, ids=lambda v: v if isinstance(v, str) else "")
def test_a_run_ends_where_the_schedulers_own_ends(name: str, options: dict[str, Any]) -> None:
    scheduler = make(name, **options)
    schedule = schedule_of(scheduler, 10)
    expert = NetworkExpert(Toy(), scheduler, (6, 1))
    noise = Streams(3, range(4)).normal("image", (6, 1))
    solver = solver_of(make(name, **options), schedule)
    if isinstance(solver, FromScheduler):
        solver = FromScheduler(scheduler, schedule)
    found = sample(expert, 4, solver=solver, grid=expert.follow(schedule), seed=3)["image"]
    expected = theirs(scheduler, schedule.latents(noise), 3)
    assert (found - expected).abs().max() < 1e-4 * max(1.0, float(expected.abs().max()))
