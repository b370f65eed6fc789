"""Suite: layers of a network, or picked from several, and what else its totals need."""

from __future__ import annotations

from dataclasses import dataclass

from convbench import count
from convbench.receptive_field import Window, cumulative
from convbench.spec import ConvSpec, Pair, Pass


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution and how often the network uses it.

    ``branch`` says that it lies beside the main path (a shortcut's projection): it does not widen the
    receptive field.
    """

    name: str
    spec: ConvSpec
    count: int = 1
    branch: bool = False


@dataclass(frozen=True, slots=True)
class Other:
    """A layer that is not a convolution: in a network's totals and receptive field, never timed.

    ``macs`` holds for each pass. A pooling layer says its ``window`` and the name of the case it comes
    ``after`` on the main path.
    """

    name: str
    macs: int = 0
    params: int = 0
    count: int = 1
    window: Window | None = None
    after: str = ""


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over a suite, each layer times its count."""

    macs: int
    valid_macs: int
    params: int


@dataclass(frozen=True, slots=True)
class Suite:
    """Named layers. ``sequential``: they are a whole network in order, so receptive fields add up."""

    name: str
    layers: tuple[Layer, ...]
    description: str = ""
    others: tuple[Other, ...] = ()
    sequential: bool = False

    def conv_totals(self, pass_: Pass = "forward") -> Totals:
        """Sums over the convolutions."""
        return Totals(
            sum(layer.count * count.macs(layer.spec, pass_) for layer in self.layers),
            sum(layer.count * count.valid_macs(layer.spec, pass_) for layer in self.layers),
            sum(layer.count * count.params(layer.spec) for layer in self.layers),
        )

    def network_totals(self, pass_: Pass = "forward") -> Totals:
        """Sums over everything: fully connected layers and normalisation too."""
        conv = self.conv_totals(pass_)
        macs = sum(other.count * other.macs for other in self.others)
        params = sum(other.count * other.params for other in self.others)
        return Totals(conv.macs + macs, conv.valid_macs + macs, conv.params + params)

    def receptive_fields(self) -> dict[str, Pair]:
        """Receptive field (height, width) on the network's input after each layer of the main path.

        Empty unless the suite is sequential.
        """
        path = self._path()
        fields = cumulative(window for _, window in path)
        return {name: field for (name, _), field in zip(path, fields, strict=True) if name}

    def receptive_field(self) -> Pair | None:
        """Receptive field of the whole network, a last pooling included; None unless it is sequential."""
        path = self._path()
        return cumulative(window for _, window in path)[-1] if path else None

    def _path(self) -> list[tuple[str, Window]]:
        """Windows in order, each with the layer's name; pooling has none."""
        path: list[tuple[str, Window]] = []
        for layer in self.layers if self.sequential else ():
            if not layer.branch:
                path.append((layer.name, Window.of(layer.spec, layer.count)))
                path += [("", o.window) for o in self.others if o.window and o.after == layer.name]
        return path
