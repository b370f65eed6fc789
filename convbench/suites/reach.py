"""What of a model's input a tensor's positions read, and where in the tensor these positions are.

Read by convbench.suites.fields, which follows it from operator to operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

from convbench.receptive_field import Field, through
from convbench.spec import Pair

IMAGE = 2  # height and width are the last two dimensions, if nothing has moved them


@dataclass(frozen=True)
class Axis:
    """What output position 0 reads along one axis: input position ``low`` + i for each bit i of ``bits``.

    Bit 0 is set. The next output position reads the same, moved by ``jump``.
    """

    low: int = 0
    bits: int = 1
    jump: int = 1

    @property
    def size(self) -> int:
        return self.bits.bit_length()

    def read(self, taps: int, stride: int, dilation: int, before: int) -> Axis:
        """After a window of so many taps, ``before`` positions of padding in front of it."""
        bits = through(self.bits, taps, dilation * self.jump)
        return Axis(self.low - before * self.jump, bits, self.jump * stride)

    def joined(self, other: Axis) -> Axis:
        """What one or the other reads, of equal jumps."""
        low = min(self.low, other.low)
        return Axis(low, self.bits << (self.low - low) | other.bits << (other.low - low), self.jump)


@dataclass(frozen=True)
class Reach:
    """Height and width together. ``exact``: all pairs of both are read; otherwise they only bound what is."""

    h: Axis = Axis()
    w: Axis = Axis()
    exact: bool = True

    def read(self, taps: Any, stride: Any = 1, dilation: Any = 1, before: Any = 0) -> Reach:
        """After a window; each number is for both axes or a pair, and no stride is the size of the window."""
        sizes = [_pair(taps), _pair(stride or taps), _pair(dilation), _pair(before)]
        h, w = ([pair[axis] for pair in sizes] for axis in (0, 1))
        return Reach(self.h.read(*h), self.w.read(*w), self.exact)

    def joined(self, other: Reach) -> State:
        """Two branches that meet."""
        if (self.h.jump, self.w.jump) != (other.h.jump, other.w.jump):
            return "unknown"
        both = Reach(self.h.joined(other.h), self.w.joined(other.w))
        contained = (both.h, both.w) in ((self.h, self.w), (other.h, other.w))
        return Reach(both.h, both.w, contained and self.exact and other.exact)

    def field(self) -> Field:
        """Its size, and how many positions in it are read."""
        touched = self.h.bits.bit_count() * self.w.bits.bit_count()
        return Field((self.h.size, self.w.size), touched if self.exact else None)


@dataclass(frozen=True)
class Moved:
    """A reach whose height and width are not the last two dimensions: channels last, or joined into one.

    ``places``: for each of the two its size, and how many elements lie between neighbours, in logical order.
    """

    reach: Reach
    places: tuple[Pair, Pair]

    def viewed(self, shape: Sequence[int]) -> State:
        """In another shape of the same elements in the same order: a reach again where the image is last."""
        height, width = self.places
        last = (height[0], width[0]) == tuple(shape[-IMAGE:]) and (height[1], width[1]) == (width[0], 1)
        return self.reach if last else self

    def permuted(self, shape: Sequence[int], order: Sequence[int]) -> State:
        """With its dimensions in another order."""
        after = [prod(shape[n + 1 :]) for n in range(len(shape))]
        moved = [shape[n] for n in order]
        places = []
        for size, apart in self.places:
            inside = [n for n in range(len(shape)) if after[n] <= apart and size * apart <= after[n] * shape[n]]
            if len(inside) != 1 or apart % after[inside[0]]:
                return "unknown"
            place = list(order).index(inside[0])
            places.append((size, prod(moved[place + 1 :]) * (apart // after[inside[0]])))
        return replace(self, places=(places[0], places[1])).viewed(moved)

    def multiplied(self, inner: int, outer: int) -> State:
        """After a matrix product over the last dimension, of ``inner`` elements before and ``outer`` after."""
        if any(apart % inner for _, apart in self.places):
            return "unknown"
        height, width = ((size, apart // inner * outer) for size, apart in self.places)
        return replace(self, places=(height, width))


State = Reach | Moved | Literal["whole", "unknown"]  # of a tensor that derives from an input


def last_two(reach: Reach, shape: Sequence[int]) -> Moved:
    """The same, as what can be moved."""
    return Moved(reach, ((shape[-2], shape[-1]), (shape[-1], 1)))


def _pair(value: Any) -> Pair:
    """Torch writes one number for both axes, or a list of one or two."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values[0], values[-1]
