"""Objects as JSON: a registered class is stored as its name and the arguments that made it, never as code.

`{"class": "VAE", "latent": 32, ...}` is a spec. Specs nest: an argument may itself be a registered object, a list or a
dictionary of them. Tensors live beside the spec, in a safetensors file (`polyscore.checkpoint`).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from polyscore.errors import CheckpointError

__all__ = ["from_spec", "register", "to_spec"]

T = TypeVar("T", bound=type)
_CLASSES: dict[str, type] = {}
# Rooms that register classes; imported when a spec names a class that is not known yet.
_ROOMS = (
    "polyscore.paths",
    "polyscore.oracles",
    "polyscore.networks",
    "polyscore.codecs",
    "polyscore.denoisers",
    "polyscore.product",
    "polyscore.guided",
    "polyscore.ratios",
    "polyscore.tokens",
    "polyscore.sampling",
    "polyscore.adapters.schedulers",
    "polyscore.adapters.pipeline_expert",
    "polyscore.adapters.autoencoders",
    "polyscore.adapters.codecs",
    "polyscore.adapters.prompts",
    "polyscore.metrics.judges",
)


def register(cls: T) -> T:
    """Class decorator: remember the class by name and every instance's constructor arguments in `instance._spec`."""
    if cls.__name__ in _CLASSES:
        raise TypeError(f"two registered classes are called {cls.__name__}")
    _CLASSES[cls.__name__] = cls
    original = cls.__init__  # type: ignore[misc]
    signature = inspect.signature(original)

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if type(self) is cls:
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            arguments = dict(list(bound.arguments.items())[1:])
            object.__setattr__(self, "_spec", arguments)
        original(self, *args, **kwargs)

    cls.__init__ = init  # type: ignore[misc]
    return cls


def to_spec(value: Any) -> Any:
    """JSON-able description of a value made of registered objects, mappings, sequences, numbers, strings and None.

    Raises:
        CheckpointError: the value holds an object of a class that is not registered.
    """
    if hasattr(value, "_spec"):
        return {"class": type(value).__name__, **{name: to_spec(v) for name, v in value._spec.items()}}
    if isinstance(value, Mapping):
        found = {str(k): to_spec(v) for k, v in value.items()}
        return {"class": "dict", "items": found} if "class" in found else found
    if isinstance(value, list | tuple):
        return [to_spec(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    kinds = "a class registered with polyscore, a number, a string or a list of them"
    raise CheckpointError(f"cannot store a {type(value).__name__}: expected {kinds}")


def from_spec(spec: Any) -> Any:
    """Rebuild what `to_spec` described. Lists stay lists; constructors take any sequence.

    Raises:
        CheckpointError: an unknown class name, or arguments that its constructor refuses.
    """
    if isinstance(spec, list):
        return [from_spec(v) for v in spec]
    if not isinstance(spec, dict):
        return spec
    if spec.get("class") == "dict" and isinstance(spec.get("items"), dict):
        return {k: from_spec(v) for k, v in spec["items"].items()}  # a plain mapping with a key called "class"
    arguments = {k: from_spec(v) for k, v in spec.items() if k != "class"}
    if "class" not in spec:
        return arguments
    cls = _lookup(spec["class"])
    several = [p.name for p in inspect.signature(cls).parameters.values() if p.kind is p.VAR_POSITIONAL]
    positional = arguments.pop(several[0], []) if several else []
    try:
        return cls(*positional, **arguments)
    except Exception as error:  # whatever a constructor makes of foreign arguments: wrong types, sizes that do not fit into memory
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"cannot build {spec['class']} from its stored arguments {sorted(arguments)}: {reason}") from error


def _lookup(name: Any) -> type:
    if not isinstance(name, str):
        raise CheckpointError(f"a class is named by {name!r}, expected a text")
    if name not in _CLASSES:
        for room in _ROOMS:
            if name not in _CLASSES and importlib.util.find_spec(room) is not None:
                importlib.import_module(room)
    if name not in _CLASSES:
        raise CheckpointError(f"unknown class {name!r}: expected one of {', '.join(sorted(_CLASSES))}")
    return _CLASSES[name]
