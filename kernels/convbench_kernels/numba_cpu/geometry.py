"""From a convolution to the numbers that the implicit-GEMM kernel walks by. Pure Python, done once per case.

One output pixel (p, q) of any pass is a sum over taps and channels

    y[n, k, p, q] = bias[k] + sum over taps t, channels c of  w[k, c, t] * x[n, c, p*sh + eh[t], q*sw + ew[t]]

with x read as zero outside the image. A forward pass has eh = r*dilation - padding; the data gradient of a
stride-1 convolution has eh = padding - r*dilation, x = dy, and K and C exchanged: no filter is rotated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from convbench.plugin import ConvSpec
from convbench_kernels.numba_cpu.arguments import Addresses, addresses, integers_of
from convbench_kernels.numba_cpu.tiles import ISA, LANES, MR, NR


@dataclass(frozen=True)
class Taps:
    """A pass as the equation above. rows, columns: eh, ew of each tap; weights: its offset in w.

    Strides are in elements. `out` describes where y goes: (image, plane, row, step, first)."""

    images: int
    groups: int
    k: int  # filters per group
    c: int  # reduction channels per group
    source: tuple[int, int]
    output: tuple[int, int]
    stride: tuple[int, int]
    rows: Sequence[int]
    columns: Sequence[int]
    weights: Sequence[int]
    w_group: int
    w_row: int
    w_channel: int
    out: tuple[int, int, int, int, int] | None = None  # None: dense NCHW
    phases: Sequence[int] = ()  # of each tap: the output column phase it belongs to, ascending; () for one phase
    fan: int = 1  # column phases computed together and interleaved: y column = q*fan + phase
    width: int = 0  # columns of y, where fan > 1
    reach: tuple[Sequence[int], Sequence[int], int] | None = None  # rows, columns, p that the padded x must cover


def forward_taps(spec: ConvSpec) -> Taps:
    """y from x and w of a conv2d. x (N, C, H, W), w (K, C/groups, R, S)."""
    k, c, area = spec.k // spec.groups, spec.c // spec.groups, spec.r * spec.s
    return Taps(
        spec.n, spec.groups, k, c, (spec.h, spec.w), (spec.p, spec.q), spec.stride,
        rows=[r * spec.dilation[0] - spec.padding[0] for r in range(spec.r) for _ in range(spec.s)],
        columns=[s * spec.dilation[1] - spec.padding[1] for _ in range(spec.r) for s in range(spec.s)],
        weights=range(area), w_group=k * c * area, w_row=c * area, w_channel=area,
    )  # fmt: skip


def data_gradient_taps(spec: ConvSpec) -> list[Taps]:
    """dx from dy and w of a conv2d, stride-1 convolutions of dy for each of the stride_h * stride_w phases.

    Phase (i, j) is dx[.., i::stride_h, j::stride_w]; tap (r, s) belongs to it where i + padding - r*dilation is a
    multiple of the stride. A phase that no tap reaches has no taps: it is all bias, or zero. The phases j of one i
    are one pass, so that whole rows of dx are written; all passes read the same padded dy.
    """
    (sh, sw), k, c, area = spec.stride, spec.k // spec.groups, spec.c // spec.groups, spec.r * spec.s
    found, fan, plane = [], min(sw, spec.w), spec.h * spec.w
    for i in range(min(sh, spec.h)):
        taps = [
            ((i + spec.padding[0] - r * spec.dilation[0]) // sh, ew // sw, r * spec.s + s, j)
            for j in range(fan)
            for r in range(spec.r)
            for s in range(spec.s)
            if (i + spec.padding[0] - r * spec.dilation[0]) % sh == 0
            and (ew := j + spec.padding[1] - s * spec.dilation[1]) % sw == 0
        ]
        found.append(
            Taps(
                spec.n, spec.groups, c, k, (spec.p, spec.q), (-(-(spec.h - i) // sh), -(-spec.w // sw)), (1, 1),
                rows=[t[0] for t in taps], columns=[t[1] for t in taps], weights=[t[2] for t in taps],
                w_group=k * c * area, w_row=area, w_channel=c * area,
                out=(spec.c * plane, plane, sh * spec.w, sw, i * spec.w),
                phases=[t[3] for t in taps], fan=fan, width=spec.w,
            )
        )  # fmt: skip
    reach = ([e for t in found for e in t.rows], [e for t in found for e in t.columns], found[0].output[0])
    return [replace(t, reach=reach) for t in found]


class Geometry(NamedTuple):
    """What the kernel needs, all integers. Offsets and strides in elements, per group where it says k, c."""

    images: int
    block: int  # images packed at a time
    groups: int
    k: int
    c: int
    # weights
    pack_w: int  # packed, or read in place
    w_panel: int  # packed: from panel to panel, from channel to channel
    w_step: int
    w_group: int
    w_row: int
    w_channel: int
    panels: int  # of MR filters
    panel_block: int  # applied to a group of tiles before the next
    # x as it is
    x_size: int
    h: int
    w: int
    stride_h: int
    stride_w: int
    # x as the register tile reads it
    source: int  # IN_PLACE, PLANES or COPIED
    x_plane: int
    phase_plane: int
    top: int
    rows: int
    width: int
    pitch: int
    lead: int
    # output pixels: flat over rows of `pitch`, or row by row in `row_vectors`
    p: int  # rows; of all images where these are joined
    q: int
    image_rows: int
    x_image: int
    vectors: int
    row_vectors: int
    tail: int  # pixels behind the last vector, each a dot product with whole filters
    y_image: int
    y_plane: int
    y_row: int
    y_step: int
    y_first: int
    fan: int  # column phases computed together and interleaved: y column = q*fan + phase
    y_width: int  # columns of y, where fan > 1
    # workspace
    w_at: int
    x_at: int
    panel_at: int
    panel_size: int  # of one thread: partial sums, then copied pixels
    sums_size: int
    slice: int  # terms (channels x taps) of a sum that are added up at a time
    together: int  # tiles of pixels that a block of weights is applied to


# Where the register tile reads x: as it is; in zero-padded planes, one a stride phase; copied tile by tile.
IN_PLACE, PLANES, COPIED = range(3)
# Columns of the table of taps: offset in a plane that is read, in w; output rows and columns that it reaches (the last
# is the first beyond); phase; eh, ew.
IN_X, IN_W, FIRST_ROW, LAST_ROW, FIRST_COLUMN, LAST_COLUMN, PHASE, EH, EW, TAP = range(10)


@dataclass(frozen=True)
class Plan:
    """Geometry plus tables. taps: [T, TAP] as the columns below; phases: [F, 2]; size(threads): workspace elements."""

    geometry: Geometry
    taps: np.ndarray
    phases: np.ndarray
    fixed: int

    def size(self, threads: int) -> int:
        return self.fixed + threads * self.geometry.panel_size

    def shares_x(self, before: Plan) -> bool:
        """Whether this pass can read the x that the pass before has packed."""
        names = ("source", "c", "x_plane", "x_at", "lead", "pitch", "top", "rows", "width")
        ours, theirs = ([getattr(g, name) for name in names] for g in (self.geometry, before.geometry))
        kept = self.geometry.source == PLANES and self.geometry.block >= self.geometry.images
        return kept and ours == theirs and np.array_equal(self.phases, before.phases)

    def addresses(self) -> Addresses:
        """taps and their count, phases and their count, geometry: arguments of a kernel."""
        return addresses(self.taps, len(self.taps), self.phases, len(self.phases), integers_of(self.geometry))


PACKED_BYTES = 4 << 20  # packed images of one block: stays in the last cache
SCATTERED = 16  # as Isa.in_place, where a filter's weights do not lie side by side and outgrow L2
PHASED = 512  # as Isa.longest, where phases are computed together: more tiles for each read of the weights
SHARED = 4  # panels that must share a copy of a tile's pixels
JOINED = 400  # pixels of a map up to which a batch's maps are cut into tiles as one
TAIL = LANES // 4  # pixels up to which a last vector is dearer than dot products
FEW = 16  # channels below which padded planes are cheaper than copies, if their rows are whole vectors
WORTH_CUTTING = 0.95  # of the products, below which the pass is cut into rectangles
TOGETHER = 8  # tiles of pixels for a block of weights, where none are copied


def reach(offset: int, stride: int, source: int, output: int) -> tuple[int, int]:
    """Output positions [begin, end) whose tap `offset` lies inside the source."""
    begin = max(0, -(offset // stride))
    end = min(output, (source - 1 - offset) // stride + 1)
    return begin, max(begin, end)


def round_up(value: int, multiple: int) -> int:
    """The next multiple."""
    return -(-value // multiple) * multiple


def spread(plane: int) -> int:
    """A plane stride that does not map every channel to the same cache set (a multiple of 4 KiB would)."""
    plane = round_up(plane, 16)
    return plane + 16 if plane % 1024 == 0 else plane


def extents(t: Taps) -> list[tuple[int, int, int, int]]:
    """Of each tap, the output rows [first, last) and columns [first, last) where it meets the image."""
    (h, w), (p, q), (sh, sw) = t.source, t.output, t.stride
    return [(*reach(eh, sh, h, p), *reach(ew, sw, w, q)) for eh, ew in zip(t.rows, t.columns, strict=True)]


def met(t: Taps) -> Taps:
    """The same without taps that meet padding only."""
    kept = [i for i, (top, bottom, left, right) in enumerate(extents(t)) if top < bottom and left < right]

    def only(values: Sequence[int]) -> Sequence[int]:
        return [values[i] for i in kept]

    phases = only(t.phases) if t.phases else ()
    return replace(t, rows=only(t.rows), columns=only(t.columns), weights=only(t.weights), phases=phases)


def one_row(t: Taps) -> Taps | None:
    """The same with all pixels in one row, of a 1 x 1 kernel without stride and padding and a dense y; else None."""
    area = t.output[0] * t.output[1]
    return replace(t, source=(1, area), output=(1, area), out=None) if _is_dense(t) and _is_in_place(t) else None


def _positions(t: Taps) -> tuple[int, int, int, int, int]:
    """Where y goes: (image, plane, row, step, first)."""
    (p, q), k = t.output, t.groups * t.k
    return t.out or (k * p * q, p * q, q, 1, 0)


def _is_dense(t: Taps) -> bool:
    """Whether a plane of y is written without gaps."""
    p, q = t.output
    return _positions(t)[1:] == (p * q, q, 1, 0)


def rectangles(t: Taps) -> list[Taps]:
    """The pass cut into rectangles of output pixels, in each of which every tap that is left meets the image.

    Large dilations on small maps, where most products are with padding; [t] where that gains little, or x is not read
    from copied tiles, which may lie anywhere."""
    t, (p, q) = met(t), t.output
    areas = [(bottom - top) * (right - left) for top, bottom, left, right in extents(t)]
    copied = t.fan == 1 and t.c >= FEW and -(-t.k // MR) >= SHARED
    if not copied or sum(areas) > WORTH_CUTTING * len(areas) * p * q:
        return [t]
    rows = sorted({0, p, *(at for top, bottom, *_ in extents(t) for at in (top, bottom))})
    columns = sorted({0, q, *(at for *_, left, right in extents(t) for at in (left, right))})
    pieces = [_piece(t, r, s) for r in pairwise(rows) for s in pairwise(columns)]
    pays = all(piece.rows for piece in pieces) and sum(map(_products, pieces)) < WORTH_CUTTING * _products(t)
    return pieces if pays else [t]


def _piece(t: Taps, rows: tuple[int, int], columns: tuple[int, int]) -> Taps:
    """The pass for output rows and columns [first, last) only."""
    (top, bottom), (left, right), (image, plane, row, step, first) = rows, columns, _positions(t)
    return met(
        replace(
            t, output=(bottom - top, right - left), rows=[eh + top * t.stride[0] for eh in t.rows],
            columns=[ew + left * t.stride[1] for ew in t.columns], reach=None,
            out=(image, plane, row, step, first + top * row + left * step),
        )
    )  # fmt: skip


def _products(t: Taps) -> float:
    """Vectors times taps that are multiplied for a filter and a channel; the reading of a weight costs half of one."""
    (p, q), images = t.output, t.images
    if images > 1 and p * q <= JOINED:
        images, vectors = 1, -(-images * p * q // LANES)
    else:
        vectors = -(-p * q // LANES)
    total, rows = 0, [extent[:2] for extent in extents(t)]
    for first in range(0, vectors, NR):
        count = min(NR, vectors - first)
        begin, end = first * LANES // q % p, -(-(first * LANES % (p * q) + count * LANES) // q)
        total += count * sum(1 for top, bottom in rows if end > p or (top < end and bottom > begin))
    return images * (total + len(t.rows) / 2)


class Planes(NamedTuple):
    """The zero-padded planes of a channel, one a stride phase, and where each tap reads them."""

    phases: list[tuple[int, int]]
    top: int
    rows: int
    width: int
    pitch: int
    lead: int
    phase_plane: int
    offsets: list[int]


def _planes(t: Taps) -> Planes:
    w, (p, q), (sh, sw) = t.source[1], t.output, t.stride
    phases = sorted({(eh % sh, ew % sw) for eh, ew in zip(t.rows, t.columns, strict=True)}) or [(0, 0)]
    reach = t.reach or (t.rows, t.columns, p)
    ups, lefts = [e // sh for e in reach[0]] or [0], [e // sw for e in reach[1]] or [0]
    up, left, down, right = min(ups), min(lefts), max(ups), max(lefts)
    rows, lead = reach[2] + down - up, -left
    width = min(round_up(w, sw) // sw, q + right) - max(0, left)
    pitch = max(width + max(0, lead), q + right - left - max(0, lead), q)
    phase_plane = round_up(max(0, lead) + rows * pitch, 16)
    offsets = [
        phases.index((eh % sh, ew % sw)) * phase_plane + (eh // sh - up) * pitch + lead + ew // sw
        for eh, ew in zip(t.rows, t.columns, strict=True)
    ]
    return Planes(phases, up, rows, width, pitch, lead, phase_plane, offsets)


def _table(t: Taps, offsets: Sequence[int]) -> np.ndarray:
    """A row of TAP columns for each tap, which reads a plane at offsets."""
    phases = t.phases or [0] * len(t.rows)
    entries = [
        (at, weight, *extent, phase, eh, ew)
        for at, weight, extent, phase, eh, ew in zip(
            offsets, t.weights, extents(t), phases, t.rows, t.columns, strict=True
        )
    ]
    return np.array(entries, np.int64).reshape(-1, TAP)


def _is_in_place(t: Taps) -> bool:
    """Whether output pixels are the pixels of x: a 1 x 1 kernel without stride and padding."""
    taps = set(zip(t.rows, t.columns, strict=True))
    return t.stride == (1, 1) and t.source == t.output and taps == {(0, 0)}


def _source(t: Taps, panels: int, may_copy: bool) -> int:
    may_copy &= panels >= SHARED
    if _is_in_place(t):
        return COPIED if may_copy and t.c >= ISA.copied and t.fan == 1 else IN_PLACE
    return COPIED if may_copy and t.rows and (t.c >= FEW or t.output[1] % LANES) else PLANES


def _packs_weights(t: Taps, vectors: int, row_vectors: int) -> bool:
    """Whether panels of weights are copied side by side. Not where whole panels are each used for few vectors of
    pixels, or stay in L2 as they are."""
    if t.k % MR or row_vectors:
        return True
    if t.w_channel < t.w_row:  # a filter's weights lie side by side
        return vectors > NR * ISA.in_place
    size = 4 * t.groups * t.k * t.c * len(t.rows)
    return size > ISA.cache_block and vectors > NR * SCATTERED


class Vectors(NamedTuple):
    """How output pixels make vectors; see Geometry."""

    images: int
    rows: int
    vectors: int
    row_vectors: int
    tail: int
    pack_w: int


def _vectors(t: Taps, source: int, pitch: int) -> Vectors:
    """Flat or row by row; small maps of a batch as one; a last vector that would be nearly empty left out."""
    p, q = t.output
    flat, by_row = -(-((p - 1) * pitch + q) // LANES), p * -(-q // LANES)
    row_vectors = -(-q // LANES) if source == PLANES and by_row < flat else 0
    vectors = by_row if row_vectors else flat
    pack_w = int(_packs_weights(t, t.images * vectors, row_vectors))
    tail = p * q % LANES
    side_by_side = list(t.weights) == list(range(t.w_channel)) and t.w_row == t.c * len(t.rows)
    if source != PLANES and _is_dense(t) and side_by_side and not pack_w and p * q >= LANES and 0 < tail <= TAIL:
        return Vectors(t.images, p, vectors - 1, row_vectors, tail, pack_w)
    if source == COPIED and tail and t.images > 1 and p * q <= JOINED:
        return Vectors(1, t.images * p, -(-t.images * p * q // LANES), row_vectors, 0, pack_w)
    return Vectors(t.images, p, vectors, row_vectors, 0, pack_w)


def _blocks(t: Taps, source: int, tiles: int, tail: int) -> dict[str, int]:
    """Terms of a slice, tiles and panels of a block, and the workspace that a thread needs for them."""
    panels, terms = -(-t.k // MR), t.c * len(t.rows)
    longest = ISA.longest if t.fan == 1 else min(ISA.longest, PHASED)
    slice_ = min(max(1, terms), longest) if source == COPIED else max(1, terms)
    tile = (slice_ + t.fan) * NR * LANES
    together = max(1, ISA.cache_block // (4 * tile) if source == COPIED else TOGETHER)
    together = -(-tiles // max(1, -(-tiles // together)))  # groups of the same size
    sums, sliced = together * t.fan * MR * NR * LANES, terms > slice_
    panel_block = max(1, min(panels, ISA.cache_block // (4 * (sums if sliced else max(1, MR * terms)))))
    sums_size = (panel_block * sums if sliced else t.fan * MR * NR * LANES) + LANES
    copies = {IN_PLACE: tile, PLANES: 0, COPIED: together * tile}[source] + terms * tail
    return {"slice": slice_, "together": together, "panel_block": panel_block, "sums_size": sums_size,
            "panel_size": sums_size + copies + LANES}  # fmt: skip


def plan(t: Taps, may_copy: bool = True) -> Plan:
    """Choose packing, tiling and blocks for one pass. may_copy: x may be read from copied tiles."""
    t, panels = met(t), -(-t.k // MR)
    source = _source(t, panels, may_copy)
    if source != PLANES:
        t = one_row(t) or t
    (h, w), (p, q) = t.source, t.output
    if source == PLANES:
        planes = _planes(t)
        x_plane = spread(len(planes.phases) * planes.phase_plane)
    else:
        planes = Planes([(0, 0)], 0, p, q, q, 0, h * w, [0] * len(t.rows))
        x_plane = h * w
    pixels = _vectors(t, source, planes.pitch)
    w_panel = MR * t.c * len(t.rows)
    w_size = round_up(t.groups * panels * w_panel, 16) * pixels.pack_w
    block, x_size = pixels.images, 0
    if source == PLANES:
        block = max(1, min(block, PACKED_BYTES // (4 * t.groups * t.c * x_plane)))
        x_size = round_up(block * t.groups * t.c * x_plane + (NR + 1) * LANES + planes.pitch, 16)
    image, plane, row, step, first = _positions(t)
    geometry = Geometry(
        images=pixels.images, block=block, groups=t.groups, k=t.k, c=t.c,
        pack_w=pixels.pack_w, w_panel=w_panel, w_step=MR * len(t.rows),
        w_group=t.w_group, w_row=t.w_row, w_channel=t.w_channel, panels=panels,
        x_size=t.images * t.groups * t.c * h * w, h=h, w=w, stride_h=t.stride[0], stride_w=t.stride[1],
        source=source, x_plane=x_plane, phase_plane=planes.phase_plane,
        top=planes.top, rows=planes.rows, width=planes.width, pitch=planes.pitch, lead=planes.lead,
        p=pixels.rows, q=q, image_rows=p, x_image=t.groups * t.c * x_plane,
        vectors=pixels.vectors, row_vectors=pixels.row_vectors, tail=pixels.tail,
        y_image=image, y_plane=plane, y_row=row, y_step=step, y_first=first,
        fan=t.fan, y_width=t.width, w_at=0, x_at=w_size, panel_at=w_size + x_size,
        **_blocks(t, source, -(-pixels.vectors // NR), pixels.tail),
    )  # fmt: skip
    return Plan(geometry, _table(t, planes.offsets), np.array(planes.phases, np.int64), w_size + x_size)
