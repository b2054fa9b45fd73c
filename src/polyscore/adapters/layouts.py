"""Packed latents (Flux, LTX) as ordinary ones: (C, H, W) for pictures, (C, F, H, W) for videos, frames on the time axis."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["Layout", "layout_of"]


def _same(z: Tensor) -> Tensor:
    return z


@dataclass(frozen=True)
class Layout:
    """`pack`: (B, *shape) to what the network takes; `unpack`: the way back. Noise stays noise: both only move numbers."""

    pack: Callable[[Tensor], Tensor] = _same
    unpack: Callable[[Tensor], Tensor] = _same


def layout_of(pipe: Any, call: Mapping[str, Any]) -> Layout:
    """The layout of a pipeline called with these arguments (height, width, num_frames); other pipelines keep the network's own."""
    name = type(pipe).__name__
    if name.startswith(("Flux", "Chroma")) and not name.startswith("Flux2"):
        return _flux(pipe, call)
    if name.startswith("LTX") and hasattr(pipe, "transformer_spatial_patch_size") and not name.startswith("LTX2"):
        return _ltx(pipe, call)
    return Layout()


def _argument(pipe: Any, call: Mapping[str, Any], name: str, default: int | None = None) -> int:
    own = inspect.signature(type(pipe).__call__).parameters[name].default
    return int(call.get(name) or own or default or 0)


def _flux(pipe: Any, call: Mapping[str, Any]) -> Layout:
    factor = pipe.vae_scale_factor
    height, width = (_argument(pipe, call, side, pipe.default_sample_size * factor) for side in ("height", "width"))

    def pack(z: Tensor) -> Tensor:
        return pipe._pack_latents(z, *z.shape)

    def unpack(packed: Tensor) -> Tensor:
        return pipe._unpack_latents(packed, height, width, factor)

    return Layout(pack, unpack)


def _ltx(pipe: Any, call: Mapping[str, Any]) -> Layout:
    frames = (_argument(pipe, call, "num_frames") - 1) // pipe.vae_temporal_compression_ratio + 1
    height, width = (_argument(pipe, call, side) // pipe.vae_spatial_compression_ratio for side in ("height", "width"))
    p, q = pipe.transformer_spatial_patch_size, pipe.transformer_temporal_patch_size

    def pack(z: Tensor) -> Tensor:
        return pipe._pack_latents(z, p, q)

    def unpack(packed: Tensor) -> Tensor:
        return pipe._unpack_latents(packed, frames // q, height // p, width // p, p, q)

    return Layout(pack, unpack)
