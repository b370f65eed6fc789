"""From a convolution to the numbers that the implicit-GEMM kernel walks by. Pure Python, done once per case.

One output pixel (p, q) of any pass is a sum over taps and channels

    y[n, k, p, q] = bias[k] + sum over taps t, channels c of  w[k, c, t] * x[n, c, p*sh + eh[t], q*sw + ew[t]]

with x read as zero outside the image. A forward pass has eh = r*dilation - padding; the data gradient of a
stride-1 convolution has eh = padding - r*dilation, x = dy, and K and C exchanged: no filter is rotated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    added: bool = False  # to what y holds
    kept: tuple[int, int] | None = None  # taps of the weights that are packed once for all passes, and this one's


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


def by_tap(t: Taps) -> list[Taps] | None:
    """One pass a tap, over the outputs that it reaches, each added to the one before; None where no tap reaches all.

    No product with padding is computed: with dilation 18 on a map of 33, seven of nine taps miss most outputs.
    """
    (p, q), passes = t.output, []
    for tap, (eh, ew, at) in enumerate(zip(t.rows, t.columns, t.weights, strict=True)):
        (top, bottom), (left, right) = _reach(eh, t.stride[0], t.source[0], p), _reach(ew, t.stride[1], t.source[1], q)
        if bottom > top and right > left:
            one = replace(
                t, output=(bottom - top, right - left), rows=[eh + top * t.stride[0]],
                columns=[ew + left * t.stride[1]], weights=[at],
                out=(t.groups * t.k * p * q, p * q, q, 1, top * q + left),
                phases=(), reach=None, added=True, kept=(len(t.rows), tap),
            )  # fmt: skip
            passes.append(one)
    whole = next((one for one in passes if one.output == t.output), None)
    if whole is None:
        return None
    return [replace(whole, added=False), *(one for one in passes if one is not whole)]


class Geometry(NamedTuple):
    """What the kernel needs, all integers. Offsets and strides in elements, per group where it says k, c."""

    images: int
    block: int  # images packed at a time
    groups: int
    k: int
    c: int
    # weights
    pack_w: int  # 0: read in place, 1: packed by this pass, 2: packed before
    w_panel: int  # packed: from panel to panel, from channel to channel, of this pass's first
    w_step: int
    w_first: int
    w_group: int
    w_row: int
    w_channel: int
    panels: int  # of MR filters
    panel_block: int  # panels kept in L2 while pixels stream by
    # x as it is
    x_size: int
    h: int
    w: int
    stride_h: int
    stride_w: int
    # x as it is read (packed, or in place)
    pack_x: int
    x_plane: int
    phase_plane: int
    top: int
    rows: int
    width: int
    pitch: int
    lead: int
    # output pixels: flat over rows of `pitch`, or row by row in `row_vectors`
    p: int
    q: int
    vectors: int
    row_vectors: int
    y_image: int
    y_plane: int
    y_row: int
    y_step: int
    y_first: int
    fan: int  # column phases computed together and interleaved: y column = q*fan + phase
    y_width: int  # columns of y, where fan > 1
    added: int  # 1: to what y holds
    # workspace
    w_at: int
    x_at: int
    panel_at: int
    panel_size: int
    slice: int  # terms (channels x taps of one phase) of a sum that are added up at a time
    spilled: int  # panels whose partial sums are kept meanwhile
    copy_tiles: int  # so many tiles' pixels are copied side by side before their panels read them; 0: none


@dataclass(frozen=True)
class Plan:
    """Geometry plus tables. taps: [T, 5] x offset, w offset, first and last+1 output row that it reaches, phase;
    phases: [F, 2]; size(threads): workspace elements."""

    geometry: Geometry
    taps: np.ndarray
    phases: np.ndarray
    fixed: int

    def size(self, threads: int) -> int:
        return self.fixed + threads * self.geometry.panel_size

    def shares_x(self, before: Plan) -> bool:
        """Whether this pass can read the x that the pass before has packed."""
        names = ("pack_x", "c", "x_plane", "x_at", "lead", "pitch", "top", "rows", "width")
        ours, theirs = ([getattr(g, name) for name in names] for g in (self.geometry, before.geometry))
        kept = self.geometry.pack_x and self.geometry.block >= self.geometry.images
        return bool(kept) and ours == theirs and np.array_equal(self.phases, before.phases)

    def addresses(self) -> Addresses:
        """taps and their count, phases and their count, geometry: arguments of a kernel."""
        return addresses(self.taps, len(self.taps), self.phases, len(self.phases), integers_of(self.geometry))


PACKED_BYTES = 4 << 20  # packed images of one block: stays in the last cache


SCATTERED = 4  # as Isa.in_place, where a filter's weights do not lie side by side
FEW_BLOCKS = 8  # of L2: where weights do not fit one, they are read once for as many pixels as fit so many
MOSTLY = 0.8  # of the rows of all taps inside the image: skipping the others would save less than copies do
SHARED = 4  # panels that must share a copy of a tile's pixels


def _reach(offset: int, stride: int, source: int, output: int) -> tuple[int, int]:
    """Output positions [begin, end) whose tap `offset` lies inside the source."""
    begin = max(0, -(offset // stride))
    end = min(output, (source - 1 - offset) // stride + 1)
    return begin, max(begin, end)


def _whole(live: Sequence[tuple[int, ...]], p: int) -> bool:
    """Whether nearly all products meet the image, so that no tile may skip a tap."""
    return sum(end - begin for _, _, _, begin, end, _ in live) >= MOSTLY * p * len(live)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _spread(plane: int) -> int:
    """A plane stride that does not map every channel to the same cache set (a multiple of 4 KiB would)."""
    plane = _up(plane, 16)
    return plane + 16 if plane % 1024 == 0 else plane


def plan(t: Taps) -> Plan:
    """Choose packing, tiling and blocks for one pass."""
    (h, w), (p, q), (sh, sw) = t.source, t.output, t.stride
    live = [
        (eh, ew, at, *_reach(eh, sh, h, p), f)
        for eh, ew, at, f in zip(t.rows, t.columns, t.weights, t.phases or [0] * len(t.rows), strict=True)
        if len(range(*_reach(eh, sh, h, p))) and len(range(*_reach(ew, sw, w, q)))
    ]
    in_place = t.stride == (1, 1) and {(eh, ew) for eh, ew, *_ in live} == {(0, 0)} and (h, w) == (p, q)
    phases = sorted({(eh % sh, ew % sw) for eh, ew, *_ in live}) or [(0, 0)]
    reach = t.reach or ([e[0] for e in live], [e[1] for e in live], p)
    ups, lefts = [e // sh for e in reach[0]] or [0], [e // sw for e in reach[1]] or [0]
    up, left, down, right = min(ups), min(lefts), max(ups), max(lefts)
    rows, lead = reach[2] + down - up, -left
    width = min(_up(w, sw) // sw, q + right) - max(0, left)
    pitch = max(width + max(0, lead), q + right - left - max(0, lead), q)
    phase_plane = _up(max(0, lead) + rows * pitch, 16)
    if in_place:
        rows, lead, pitch, phase_plane = p, 0, q, h * w
    table = np.zeros((len(live), 5), np.int64)
    for i, (eh, ew, at, begin, end, f) in enumerate(live):
        phase = phases.index((eh % sh, ew % sw))
        table[i] = (phase * phase_plane + (eh // sh - up) * pitch + lead + ew // sw, at, begin, end, f)
    if in_place:
        table[:, 0] = 0
    x_plane = h * w if in_place else _spread(len(phases) * phase_plane)

    flat, by_row = -(-((p - 1) * pitch + q) // LANES), p * -(-q // LANES)
    row_vectors = 0 if flat <= by_row else -(-q // LANES)
    vectors = min(flat, by_row)
    tiles, panels = -(-vectors // NR), -(-t.k // MR)
    few = t.images * tiles <= (ISA.in_place if t.w_channel < t.w_row else SCATTERED)
    pack_w = int(t.k % MR != 0 or row_vectors > 0 or not few)
    panel = MR * t.c * len(live)
    pack_w = 2 if t.kept else pack_w
    w_panel = MR * t.c * (1 if t.kept else len(live))
    kept_size, w_first = t.groups * panels * w_panel, 0
    if t.kept:  # [tap][group][panel][channel][MR]
        w_first = t.kept[1] * kept_size
        kept_size *= t.kept[0]
    panel_block = max(1, min(panels, ISA.cache_block // (4 * max(panel, 1))))
    block = t.images if in_place else max(1, min(t.images, PACKED_BYTES // (4 * t.groups * t.c * x_plane)))

    w_size = _up(kept_size, 16) * bool(pack_w)
    x_size = 0 if in_place else _up(block * t.groups * t.c * x_plane + (NR + 1) * LANES + pitch, 16)
    image, plane, row, step, first = t.out or (t.groups * t.k * p * q, p * q, q, 1, 0)
    tile, count = t.c * len(live) * NR * LANES, t.c * len(live)
    simple = len(live) == 1 and not table[0, 0]
    simple |= ISA.copies_taps and _whole(live, p) and 4 * t.c * x_plane > 2 * ISA.cache_block
    copied = simple and count >= ISA.copied and min(panels, panel_block) >= SHARED
    room = ISA.cache_block * (1 if panels <= panel_block else FEW_BLOCKS)
    copy_tiles = max(1, min(tiles, room // (4 * tile))) if copied else 0
    slice_ = max(1, ISA.longest if copied else count)
    spilled = panel_block if count > slice_ * t.fan else 1
    panel_size = spilled * t.fan * MR * NR * LANES + LANES + max(copy_tiles, int(in_place)) * tile
    geometry = Geometry(
        images=t.images, block=block, groups=t.groups, k=t.k, c=t.c,
        pack_w=pack_w, w_panel=w_panel, w_step=MR * (1 if t.kept else len(live)), w_first=w_first,
        w_group=t.w_group, w_row=t.w_row, w_channel=t.w_channel,
        panels=panels, panel_block=panel_block,
        x_size=t.images * t.groups * t.c * h * w, h=h, w=w, stride_h=sh, stride_w=sw,
        pack_x=int(not in_place), x_plane=x_plane, phase_plane=phase_plane,
        top=up, rows=rows, width=width, pitch=pitch, lead=lead,
        p=p, q=q, vectors=vectors, row_vectors=row_vectors,
        y_image=image, y_plane=plane, y_row=row, y_step=step, y_first=first,
        fan=t.fan, y_width=t.width, added=int(t.added),
        w_at=0, x_at=w_size, panel_at=w_size + x_size, panel_size=panel_size,
        slice=slice_, spilled=spilled, copy_tiles=copy_tiles,
    )  # fmt: skip
    return Plan(geometry, table, np.array(phases, np.int64), w_size + x_size)
