"""Cells of the conformance suite: model family x scheduler x prediction type, on tiny random weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
from tiny_pipelines import FAMILIES, LATENT

from polyscore.adapters.pipeline_expert import PipelineExpert
from polyscore.adapters.pipelines import load_pipeline


@dataclass(frozen=True)
class Cell:
    """One family with one scheduler (None: its own)."""

    family: str
    scheduler: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    guidance: float = 3.0

    @property
    def name(self) -> str:
        told = self.options.get("prediction_type", "")
        more = [k for k, v in self.options.items() if k.startswith(("use_", "rescale", "timestep_spacing", "thresholding")) and v]
        return "-".join([self.family, self.scheduler or "own", *([told] if told else []), *more])

    def expert(self, folder: Path, modality: str = "state") -> PipelineExpert:
        """The family's pipeline with the cell's scheduler."""
        pipe = copy.copy(load_pipeline(str(folder)))
        if self.scheduler:
            pipe.scheduler = getattr(diffusers, self.scheduler)(**self.options)
        text = "7" if self.family == "dit" else "a red cat"
        return PipelineExpert(pipe, text, guidance=self.guidance, modality=modality, call=FAMILIES[self.family][1])


V, X0, FLOW = ({"prediction_type": t} for t in ("v_prediction", "sample", "flow_prediction"))
ZERO = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
SHIFTED = {**FLOW, "use_flow_sigmas": True, "flow_shift": 3.0}
SD, XL = "stable_diffusion", "stable_diffusion_xl"

CELLS = [
    *[Cell(family, None, guidance=1.0 if family == "ddpm" else 3.0) for family in FAMILIES],
    Cell(SD, "DDPMScheduler", {**LATENT, "clip_sample": False}),
    Cell(SD, "DDIMScheduler", {**LATENT, **V, **ZERO, "clip_sample": False}),
    Cell(SD, "DDIMScheduler", {**LATENT, **X0, "clip_sample": True}),
    Cell(SD, "DDIMScheduler", {**LATENT, "thresholding": True, "sample_max_value": 2.0}),
    Cell(SD, "PNDMScheduler", {**LATENT, "skip_prk_steps": True, "steps_offset": 1}),
    Cell(SD, "PNDMScheduler", {**LATENT, **V, "skip_prk_steps": True}),
    Cell(SD, "EulerDiscreteScheduler", {**LATENT, **V}),
    Cell(SD, "EulerDiscreteScheduler", {**LATENT, "use_karras_sigmas": True}),
    Cell(SD, "EulerAncestralDiscreteScheduler", {**LATENT}),
    Cell(SD, "HeunDiscreteScheduler", {**LATENT, **V}),
    Cell(SD, "LMSDiscreteScheduler", {**LATENT}),
    Cell(SD, "KDPM2DiscreteScheduler", {**LATENT}),
    Cell(SD, "DPMSolverMultistepScheduler", {**LATENT}),
    Cell(SD, "DPMSolverMultistepScheduler", {**LATENT, **V, "use_karras_sigmas": True}),
    Cell(SD, "DPMSolverMultistepScheduler", {**LATENT, **X0}),
    Cell(SD, "DPMSolverMultistepScheduler", SHIFTED),
    Cell(SD, "DPMSolverSinglestepScheduler", {**LATENT}),
    Cell(SD, "DEISMultistepScheduler", {**LATENT}),
    Cell(SD, "UniPCMultistepScheduler", {**LATENT, **V}),
    Cell(SD, "UniPCMultistepScheduler", SHIFTED),
    Cell(SD, "EDMEulerScheduler", {}),
    Cell(SD, "EDMDPMSolverMultistepScheduler", {**V}),
    Cell(SD, "LCMScheduler", {**LATENT}),
    Cell(XL, "DPMSolverMultistepScheduler", {**LATENT, "use_karras_sigmas": True}),
    Cell(XL, "DDIMScheduler", {**LATENT, **V, **ZERO, "clip_sample": False}),
    Cell(XL, "EDMEulerScheduler", {**V}),
    Cell("dit", "DPMSolverMultistepScheduler", {}),
    Cell("ddpm", "DDIMScheduler", {}, 1.0),
    Cell("ddpm", "DDPMScheduler", {**V, "clip_sample": False}, 1.0),
    Cell("stable_diffusion_3", "FlowMatchHeunDiscreteScheduler", {}),
    Cell("stable_diffusion_3", "DPMSolverMultistepScheduler", SHIFTED),
    Cell("animate_diff", "EulerDiscreteScheduler", {"beta_schedule": "linear"}),
    Cell("animate_diff", "DPMSolverMultistepScheduler", {"beta_schedule": "linear", **V}),
    Cell("audio_ldm", "DPMSolverMultistepScheduler", {**LATENT}),
    Cell("audio_ldm_2", "LMSDiscreteScheduler", {**LATENT}),
    Cell("stable_audio", "EDMEulerScheduler", {**V, "sigma_data": 1.0, "sigma_schedule": "exponential"}),
    Cell("wan", "FlowMatchEulerDiscreteScheduler", {"shift": 5.0}),
]
PAIRS = [cell for cell in CELLS if cell.family in (SD, XL, "dit")]


def pairs() -> list[tuple[Cell, Cell]]:
    """Every cell of the shared latent space with one five places on: other schedulers, prediction types and families."""
    return [(cell, PAIRS[(i + 5) % len(PAIRS)]) for i, cell in enumerate(PAIRS)]
