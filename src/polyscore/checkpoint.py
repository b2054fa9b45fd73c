"""Modules on disk: `NAME.safetensors` for tensors, `NAME.json` for the spec. No pickles, no code.

The JSON file also holds a SHA-256 of the tensor file and free `meta` (what trained it, the number it reached).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polyscore.errors import CheckpointError
from polyscore.files import atomic
from polyscore.spec import from_spec, to_spec

__all__ = ["load_module", "load_state", "load_tensors", "read_json", "save_module", "save_tensors"]

FORMAT = 1


def save_module(
    module: nn.Module, path: str | os.PathLike[str], *, meta: dict[str, Any] | None = None, dtype: torch.dtype | None = None
) -> Path:
    """Write `path`.safetensors and `path`.json, both or neither. Floating tensors are stored as `dtype` when given (shipped: float16)."""
    target = Path(path)
    state = {k: v.detach().cpu() for k, v in module.state_dict().items()}
    if dtype is not None:
        state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    data = _serialised(state)
    header = {"format": FORMAT, "spec": to_spec(module), "sha256": hashlib.sha256(data).hexdigest(), "meta": meta or {}}
    text = json.dumps(header, indent=1) + "\n"
    # Both are on the disk before either takes its name: a full disk leaves an older checkpoint whole.
    with atomic(target.with_suffix(".json")) as description, atomic(target.with_suffix(".safetensors")) as tensors:
        description.write_text(text, encoding="utf-8")
        tensors.write_bytes(data)
    return target


def load_module(path: str | os.PathLike[str], expect: type | tuple[type, ...] = nn.Module) -> Any:
    """Rebuild the module saved at `path` (with or without suffix), in evaluation mode, in float32.

    Raises:
        CheckpointError: a file is missing, truncated, foreign, changed since it was written, or holds another class or shapes.
    """
    target = Path(path)
    header = read_json(target.with_suffix(".json"))
    if not isinstance(header, dict) or header.get("format") != FORMAT or "spec" not in header:
        raise CheckpointError(f"{target.with_suffix('.json')}: not a polyscore checkpoint (expected format {FORMAT} with a spec)")
    module: Any = from_spec(header["spec"])
    fits = isinstance(module, expect)
    if not fits:
        names = expect.__name__ if isinstance(expect, type) else " or ".join(e.__name__ for e in expect)
        raise CheckpointError(f"{target.with_suffix('.json')}: expected a {names}, found {type(module).__name__}")
    tensors = load_tensors(target.with_suffix(".safetensors"), sha256=header.get("sha256"))
    load_state(module, tensors, target.with_suffix(".safetensors"))
    module._meta = header.get("meta", {})
    return module.eval()


def load_state(module: nn.Module, tensors: dict[str, Tensor], source: object) -> None:
    """Copy tensors into a module in the module's own dtypes; every name and shape must match.

    Raises:
        CheckpointError: naming the source and the first tensor that is missing, unknown or of another shape.
    """
    own = module.state_dict()
    for name, value in own.items():
        if name not in tensors:
            raise CheckpointError(f"{source}: tensor {name!r} of {type(module).__name__} is missing")
        if tensors[name].shape != value.shape:
            raise CheckpointError(f"{source}: tensor {name!r} has shape {tuple(tensors[name].shape)}, expected {tuple(value.shape)}")
    unknown = sorted(set(tensors) - set(own))
    if unknown:
        raise CheckpointError(f"{source}: unknown tensor {unknown[0]!r} ({len(unknown)} in all) for {type(module).__name__}")
    module.load_state_dict({k: tensors[k].to(v.dtype) for k, v in own.items()})


def save_tensors(tensors: dict[str, Tensor], path: str | os.PathLike[str], metadata: dict[str, str] | None = None) -> str:
    """Write a safetensors file atomically and return its SHA-256."""
    data = _serialised(tensors, metadata)
    with atomic(path) as temporary:
        temporary.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _serialised(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    from safetensors.torch import save

    return save({k: v.contiguous() for k, v in tensors.items()}, metadata=metadata)


def load_tensors(path: str | os.PathLike[str], sha256: str | None = None) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: missing, unreadable, truncated, or its SHA-256 is not the expected one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    if sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise CheckpointError(f"{path}: truncated or changed: expected sha256 {sha256[:12]}..., found {found[:12]}... ({len(data)} bytes)")
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error})") from error


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        CheckpointError: missing, unreadable or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error
