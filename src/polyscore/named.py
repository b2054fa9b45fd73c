"""Objects by name, in one word that a command line, a YAML file or a stored default can hold: "gibbs:2" or "langevin:0.25:when=before"."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin

from polyscore.errors import PolyscoreError

__all__ = ["Named", "make_named"]

Named = Mapping[str, tuple[Callable[..., Any], tuple[str, ...]]]
"""name: (what makes it, the arguments that may be written, values without a name in this order)."""


def make_named(text: str, known: Named, what: str, *first: Any) -> Any:
    """What `text` names: NAME, then values and FIELD=VALUE after colons; `first` are arguments of every maker.

    Raises:
        PolyscoreError: an unknown name or field, or a value of another type than the maker's argument.
    """
    name, *parts = text.split(":")
    if name not in known:
        raise PolyscoreError(f"{what} {text!r}: expected one of {', '.join(known)}, perhaps with values (NAME:VALUE or NAME:FIELD=VALUE)")
    make, fields = known[name]
    kinds = {p.name: p.annotation for p in inspect.signature(make, eval_str=True).parameters.values()}
    values: dict[str, Any] = {}
    for place, part in enumerate(parts):
        field, named, value = part.partition("=")
        if not named:
            field, value = (fields[place], part) if place < len(fields) else ("", part)
        if field not in fields or field in values:
            have = f"at most {', '.join(fields)}, each once" if fields else "no values"
            raise PolyscoreError(f"{what} {text!r}: expected {have}, found {part!r}")
        values[field] = _value(value, kinds[field], f"{what} {text!r}: {field}")
    return make(*first, **values)


def _value(text: str, kind: Any, what: str) -> Any:
    """The text as the argument's type: a word of a `Literal`, true or false, or a finite number that is not negative."""
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise PolyscoreError(f"{what}: expected one of {', '.join(get_args(kind))}, found {text!r}")
        return text
    if kind is bool:
        if text not in ("true", "false"):
            raise PolyscoreError(f"{what}: expected true or false, found {text!r}")
        return text == "true"
    try:
        number = kind(text)
    except ValueError:
        number = -1
    if not (math.isfinite(number) and number >= 0):
        raise PolyscoreError(f"{what}: expected {'a whole number' if kind is int else 'a number'} of at least 0, found {text!r}")
    return number
