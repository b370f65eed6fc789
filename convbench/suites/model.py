"""Suite: the layers of a network, or picked from several, and what else its totals need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta, Struct

from convbench import count
from convbench.receptive_field import Field, Window, cumulative, fields
from convbench.spec import ConvSpec, Pair, Pass

LARGEST_TOTAL = 2**62  # counts stay exact in JSON; and nobody runs more


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution, how often the network has it, and its place on the path of the receptive field.

    ``pool`` is (kernel, stride) of a pooling right after it, or empty; ``main_path`` is False for a layer
    beside the path (a shortcut's projection).
    """

    name: str
    spec: ConvSpec
    count: int = 1
    pool: tuple[int, ...] = ()
    main_path: bool = True


class Other(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of a network that is no convolution: in its totals, never run. ``macs`` holds for each pass."""

    name: Annotated[str, Meta(min_length=1)]
    macs: Annotated[int, Meta(ge=0)] = 0
    params: Annotated[int, Meta(ge=0)] = 0
    count: Annotated[int, Meta(ge=1, le=LARGEST_TOTAL)] = 1


@dataclass(frozen=True, slots=True)
class Suite:
    """A named list of layers. ``network``: they are one whole network, in order. ``traced``: fields seen in a model."""

    name: str
    description: str
    layers: tuple[Layer, ...]
    others: tuple[Other, ...] = ()
    network: bool = False
    traced: Mapping[str, Field] = field(default_factory=dict, compare=False)

    def network_macs(self, pass_: Pass = "forward") -> int:
        """Nominal MACs of the convolutions and the others, each times its count."""
        convolutions = sum(layer.count * count.macs(layer.spec, pass_) for layer in self.layers)
        return convolutions + sum(other.count * other.macs for other in self.others)

    def network_params(self) -> int:
        """Parameters of the convolutions and the others, each times its count."""
        convolutions = sum(layer.count * count.params(layer.spec) for layer in self.layers)
        return convolutions + sum(other.count * other.params for other in self.others)

    def receptive_fields(self) -> Mapping[str, Field]:
        """Receptive field on the network's input after each layer of the main path, or of a traced model.

        After its last repetition where it has a count, in a model after the use that reads farthest. Empty unless the
        suite is one sequential network, or traced.
        """
        path = self._path()
        found = fields([window for _, window in path])
        return self.traced or {name: seen for (name, _), seen in zip(path, found, strict=True) if name}

    def receptive_field(self) -> Pair | None:
        """Receptive field of the whole network, a last pooling included; None unless it is sequential."""
        path = self._path()
        return cumulative(window for _, window in path)[-1] if path else None

    def _path(self) -> list[tuple[str, Window]]:
        """Windows in order, each with the layer's name; pooling has none. No path through up-sampling."""
        layers = [layer for layer in self.layers if layer.main_path]
        if not self.network or any(layer.spec.is_transposed for layer in layers):
            return []
        path: list[tuple[str, Window]] = []
        for layer in layers:
            path.append((layer.name, Window.of(layer.spec, layer.count)))
            if layer.pool:
                path.append(("", Window.create(*layer.pool)))
        return path
