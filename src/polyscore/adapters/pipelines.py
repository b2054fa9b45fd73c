"""Diffusers pipelines on disk or on the hub: loading, and what they are."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from polyscore.errors import CheckpointError

__all__ = ["fingerprint", "load_pipeline", "modality_of", "space_of"]


@functools.lru_cache(maxsize=16)
def load_pipeline(source: str) -> Any:
    """A diffusers pipeline from a folder or a hub id, in float32, from safetensors only; loaded once.

    Raises:
        CheckpointError: nothing there, files that cannot be used, or a package that the pipeline needs and is not installed.
    """
    try:
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise CheckpointError(f"{source}: needs diffusers; install it with: pip install 'polyscore[pipelines]'") from error
    if Path(source).exists() and not (Path(source) / "model_index.json").is_file():
        raise CheckpointError(f"{source}: expected a diffusers pipeline with model_index.json, found none")
    try:
        pipe = DiffusionPipeline.from_pretrained(source, use_safetensors=True)
    except ImportError as error:
        text = _first_line(error)
        raise CheckpointError(f"{source}: {text}; install what it needs with: pip install 'polyscore[pipelines]'") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{source}: not a diffusers pipeline that can be loaded ({_first_line(error)})") from error
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.float().eval().requires_grad_(False)
    return pipe


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def space_of(pipe: Any) -> str:
    """Name of the pipeline's latent space: the class and a fingerprint of its autoencoder's encoder, or "pixels".

    Two pipelines whose encoders have the same weights and scaling share a space (a decoder may be fine-tuned apart).
    """
    vae = getattr(pipe, "vae", None) or getattr(pipe, "vqvae", None)
    if vae is None:
        return "pixels"
    state = {k: v for k, v in vae.state_dict().items() if k.startswith(("encoder", "quant_conv"))} or vae.state_dict()
    scales = [getattr(vae.config, name, None) for name in ("scaling_factor", "shift_factor", "latents_mean", "latents_std")]
    return f"{type(vae).__name__}-{_digest(state, repr(scales))[:10]}"


def modality_of(pipe: Any) -> str:
    """ "audio", "video" or "image", from the pipeline's name and parts."""
    name = type(pipe).__name__.lower()
    if "audio" in name or hasattr(pipe, "vocoder") or "music" in name:
        return "audio"
    video = ("video", "animatediff", "wan", "ltx", "mochi", "cogvideo", "allegro", "latte")
    return "video" if any(word in name for word in video) else "image"


def fingerprint(*modules: nn.Module) -> str:
    """A short name of the weights of some networks: names, shapes and 16 values of every tensor."""
    state = {f"{i}.{k}": v for i, module in enumerate(modules) for k, v in module.state_dict().items()}
    return _digest(state)[:16]


def _digest(state: dict[str, Any], more: str = "") -> str:
    digest = hashlib.sha256(more.encode())
    for name, value in sorted(state.items()):
        flat = value.detach().reshape(-1)
        few = flat[:: max(1, len(flat) // 16)][:16].float().cpu()
        digest.update(f"{name} {tuple(value.shape)}".encode() + few.numpy().tobytes())
    return digest.hexdigest()
