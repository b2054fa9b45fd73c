"""Conditions of discriminators: labels and vectors, for all modalities or for each, as embeddings beside the time's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from polyscore.errors import PolyscoreError

__all__ = ["Conditioned", "condition_options", "refuse_condition"]

LABEL, VECTOR = "label", "vector"
_HINT = 'train it with condition=..., or tell it nothing with "Guided(..., condition={})"'


class Conditioned(nn.Module):
    """A discriminator whose condition is embedded and added to the embedding of the time.

    A condition is a tensor for all modalities, {modality: tensor}, or both as {"label": labels for all, modality: tensor}. Labels (B,) are
    integers, -1: none. Vectors are (B, dim), all zeros: none; tokens (B, n, dim) stand for their mean.
    """

    def embed_conditions(self, classes: int | Mapping[str, int], text: Mapping[str, int] | None, size: int) -> None:
        """Make the layers: `classes` of labels for all or of each modality, `text`: size of each modality's vector."""
        self.text = nn.ModuleDict({name: nn.Linear(dim, size) for name, dim in (text or {}).items()})
        self.classes: nn.Module | None = None
        if isinstance(classes, Mapping):
            self.classes = nn.ModuleDict({name: nn.Embedding(count + 1, size) for name, count in classes.items()})
        elif classes:
            self.classes = nn.Embedding(classes + 1, size)

    def told(self, condition: Any, like: Tensor) -> dict[str, Tensor]:
        """Embeddings like `like`, (B, size): what is said to each modality, and as "label" what is said to all.

        Raises:
            PolyscoreError: a condition that the network was not built for.
        """
        known = self._tensors(condition, like)
        found: dict[str, Tensor] = {}
        for name, layer in self.text.items():
            width = cast(nn.Linear, layer).in_features
            vector = known.pop((name, VECTOR), None)
            found[name] = layer(like.new_zeros(len(like), width) if vector is None else self._vector(name, vector, width))
        for name, table in self._tables().items():
            label = self._label(name, known.pop((name, LABEL), torch.tensor(-1, device=like.device)), table)
            found[name] = found.get(name, 0) + table(label.expand(len(like)) + 1)
        for (name, kind), value in known.items():
            what = f"a {kind} condition of shape {tuple(value.shape)} for {name!r}" if name != LABEL else f"a {kind} condition for all"
            raise PolyscoreError(f"{type(self).__name__}: {what}, expected {self._expected()}; {_HINT}")
        return found

    def _tables(self) -> dict[str, nn.Embedding]:
        if self.classes is None:
            return {}
        return cast(
            dict[str, nn.Embedding], dict(self.classes.items()) if isinstance(self.classes, nn.ModuleDict) else {LABEL: self.classes}
        )

    def _tensors(self, condition: Any, like: Tensor) -> dict[tuple[str, str], Tensor]:
        """{(modality or "label", LABEL or VECTOR): tensor}; a tensor for all goes to every modality that has a layer of its own for it."""
        if isinstance(condition, Mapping):
            parts = [(key, _tensor(self, value, like)) for key, value in condition.items() if value is not None]
        elif condition is None:
            parts = []
        else:
            value = _tensor(self, condition, like)
            own = list(self.text) if value.is_floating_point() else list(self._tables())
            parts = [(name, value) for name in own or [LABEL]]
        return {(name, VECTOR if value.is_floating_point() else LABEL): value for name, value in parts}

    def _label(self, key: str, label: Tensor, table: nn.Embedding) -> Tensor:
        if label.ndim > 1 or int(label.max()) > table.num_embeddings - 2 or int(label.min()) < -1:
            raise PolyscoreError(
                f"{type(self).__name__}: labels of {key!r} of shape {tuple(label.shape)} in [{int(label.min())}, {int(label.max())}], "
                f"expected (B,) in [-1, {table.num_embeddings - 2}]"
            )
        return label

    def _vector(self, name: str, vector: Tensor, width: int) -> Tensor:
        if vector.ndim < 2 or vector.shape[-1] != width:
            raise PolyscoreError(f"{type(self).__name__}: condition of {name!r} of shape {tuple(vector.shape)}, expected (B, {width})")
        return vector.flatten(1, -2).mean(1) if vector.ndim > 2 else vector

    def _expected(self) -> str:
        vectors = [f"a vector of {cast(nn.Linear, layer).in_features} for {name!r}" for name, layer in self.text.items()]
        return ", ".join(vectors + [f"labels for {name!r}" if name != LABEL else "labels" for name in self._tables()]) or "none"


def _tensor(network: nn.Module, value: Any, like: Tensor) -> Tensor:
    try:
        found = torch.as_tensor(value, device=like.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PolyscoreError(
            f"{type(network).__name__}: a condition of type {type(value).__name__}, expected labels or vectors; {_HINT}"
        ) from error
    return found.to(like.dtype) if found.is_floating_point() else found.long()


def refuse_condition(network: nn.Module, condition: Any) -> None:
    """For a network that takes none.

    Raises:
        PolyscoreError: there is a condition.
    """
    if condition is None or (isinstance(condition, Mapping) and not condition):
        return
    raise PolyscoreError(f"{type(network).__name__}: takes no condition, found one; {_HINT}")


def condition_options(names: Sequence[str], *conditions: Any) -> dict[str, Any]:
    """The arguments `classes` and `text` of a network for these conditions: tensors (N, ...) or mappings {modality: tensor}.

    Raises:
        PolyscoreError: conditions that are neither labels (N,) nor vectors (N, dim) or (N, n, dim), or of an unknown modality.
    """
    classes: dict[str, int] = {}
    text: dict[str, int] = {}
    for condition in conditions:
        parts: Mapping[Any, Any] = condition if isinstance(condition, Mapping) else {None: condition}
        for key, value in parts.items():
            if value is None:
                continue
            if key is not None and key not in names and key != LABEL:
                raise PolyscoreError(f"discriminator: a condition for {key!r}, expected a modality of {sorted(names)}")
            if isinstance(value, Tensor) and not value.is_floating_point() and value.ndim == 1:
                name = LABEL if key is None else key
                classes[name] = max(classes.get(name, 1), int(value.max()) + 1)
            elif isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1:
                text |= dict.fromkeys(names if key in (None, LABEL) else [key], value.shape[-1])
            else:
                what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"type {type(value).__name__}"
                raise PolyscoreError(f"discriminator: a condition of {what}, expected labels (N,) or vectors (N, dim) as a tensor")
    if LABEL in classes and len(classes) > 1:
        raise PolyscoreError(
            f"discriminator: labels for all modalities and for {sorted(set(classes) - {LABEL})}: expected one or the other"
        )
    found: dict[str, Any] = {"classes": classes.get(LABEL, classes)} if classes else {}
    return found | ({"text": text} if text else {})
