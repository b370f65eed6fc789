"""Our counts of the step's convolutions against those of fvcore and of torch's own counter, differences explained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from warnings import catch_warnings

from convbench import count
from convbench.case import Case
from convbench.crosscheck import AGREES, crosscheck
from convbench.errors import STRANGERS_ERRORS
from convbench.profile.model import Count, LayerRow
from convbench.profile.words import failure
from convbench.records import spec_of
from convbench.suites.traced import Subject, uncompiled

TORCH = "torch.utils.flop_counter"
GROUPED = "known error: counts the weight gradient of a grouped convolution once per group"


def counts(rows: Sequence[LayerRow], subject: Subject, run: Callable[[Subject], object]) -> list[Count]:
    """fvcore on each layer's shape, forward; torch.utils.flop_counter on the whole step as it runs, by pass."""
    return [*_fvcore(rows), *_torch(rows, subject, run)]


def _fvcore(rows: Sequence[LayerRow]) -> list[Count]:
    ahead = [row for row in rows if row.pass_ == "forward"]
    cases = [Case(spec_of(row), "forward", suite="model", name=row.case) for row in ahead]
    checks, notes = crosscheck(cases)
    theirs = [check for check in checks if check["tool"] == "fvcore"]
    if not theirs:
        return [Count(tool="fvcore", what="forward", verdict=note) for note in notes if note.startswith("fvcore is")]
    differ = [f"{check['case']}: {check['verdict']}" for check in theirs if check["verdict"] != AGREES]
    return [Count(
        tool="fvcore", what=f"forward, {len(theirs)} layers", ours_macs=sum(row.calls * row.macs for row in ahead),
        theirs_macs=sum(row.calls * check["theirs_macs"] for row, check in zip(ahead, theirs, strict=True)),
        verdict="; ".join(differ) or AGREES,
    )]  # fmt: skip


def _torch(rows: Sequence[LayerRow], subject: Subject, run: Callable[[Subject], object]) -> list[Count]:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    mode = FlopCounterMode(display=False)
    try:  # the warning: that the counter's hooks see a compiled module twice
        with catch_warnings(action="ignore", category=UserWarning), uncompiled(), mode:
            run(subject)
    except STRANGERS_ERRORS as error:
        return [Count(tool=TORCH, what="the whole step", verdict=f"it failed: {failure(error)}")]
    seen = mode.get_flop_counts().get("Global", {})
    found = []
    for what, operator in (("forward", "convolution"), ("backward", "convolution_backward")):
        chosen = [row for row in rows if (row.pass_ == "forward") == (what == "forward")]
        theirs = seen.get(getattr(torch.ops.aten, operator), 0) // count.FLOPS_PER_MAC
        if chosen or theirs:
            ours = sum(row.calls * row.macs for row in chosen)
            found.append(Count(tool=TORCH, what=f"{what}, the whole step", ours_macs=ours,
                               theirs_macs=theirs, verdict=_verdict(chosen, ours, theirs)))  # fmt: skip
    return found


def _verdict(rows: Sequence[LayerRow], ours: int, theirs: int) -> str:
    if ours == theirs:
        return AGREES
    grouped = sum(row.calls * row.macs * (row.groups if row.pass_ == "weight_gradient" else 1) for row in rows)
    return GROUPED if theirs == grouped else f"DIFFERS by {theirs / ours:.4g}x, not a known error"
