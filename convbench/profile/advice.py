"""What to do about a model's convolutions, each with its evidence. Pure functions of a profile's plain data.

A gain is promised only where the whole model was measured under the change; everything else is named for what it is:
alone, on paper, by roofline. What was tried and did not help is said too, so that nobody tries it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import log

from convbench.profile.advice_changes import changed
from convbench.profile.model import CALL, MIXED_LAYOUT, REPACK, Advice, Cliff, LayerRow, Profile
from convbench.profile.words import ms, names, passes, ratio
from convbench.records import spec_of
from convbench.results import FAILED_STATUSES

NOTABLE = 0.02  # share of the step below which a layer is not worth a word
COLDER = 1.5  # inside the model over alone
MOST_NAMED = 3
SMALL_CONVOLUTIONS = 0.5  # share of the step below which other operators are named


def advise(profile: Profile) -> list[Advice]:
    """Everything worth saying, what gains most first, then in the order of this list."""
    parts = (
        changed, _separable, _cliffs, _precision, _calls, _cold, _prepacked, _repacking, _denormals, _gridding,
        _others, _compiled, _failed,
    )  # fmt: skip
    found = [advice for part in parts for advice in part(profile)]
    return sorted(found, key=lambda advice: -(advice.gain or 0.0))


# Layers -------------------------------------------------------------------------------------------


def _separable(profile: Profile) -> Iterator[Advice]:
    for pair in [pair for pair in profile.separable if pair.share >= NOTABLE][:MOST_NAMED]:
        roof = "" if pair.roofline is None else f", {pair.roofline:.2g}x by this machine's roofline"
        measured, then = "not measured", "It must be trained anew"
        if pair.measured is not None:
            measured = f"{ratio(pair.measured, pair.measured_low, pair.measured_high)} measured alone"
        if pair.measured_high and pair.measured_high < 1:
            then = "Here it would be slower: leave it"
        more = f" and {pair.modules - 1} more of its shape" if pair.modules > 1 else ""
        yield Advice(
            topic="separable", layers=[pair.case],
            text=f"{pair.case}{more} ({pair.share:.0%} of the step, forward): a depthwise-separable pair in its place "
            f"would take {pair.paper:.2g}x less arithmetic on paper{roof}, {measured}. {then}",
        )  # fmt: skip


def _cliffs(profile: Profile) -> Iterator[Advice]:
    for cliff in profile.cliffs:
        yield Advice(
            topic="shape", layers=[cliff.case],
            text=f"{cliff.case}: {_change(cliff)}: {ratio(cliff.speedup, cliff.ci_low, cliff.ci_high)} alone. Use the "
            "larger number",
        )  # fmt: skip


def _change(cliff: Cliff) -> str:
    if (cliff.h, cliff.w) != (cliff.more_h, cliff.more_w):
        return f"{cliff.h}x{cliff.w} pixels take longer than {cliff.more_h}x{cliff.more_w}"
    return f"{cliff.c} -> {cliff.k} channels take longer than {cliff.more_c} -> {cliff.more_k}"


def _precision(profile: Profile) -> Iterator[Advice]:
    rows = [row for row in profile.rows if row.lower_speedup and row.lower_speedup_ci_low]
    gains = [row for row in rows if (row.lower_speedup_ci_low or 0) > COLDER]
    losses = [row for row in rows if (row.lower_speedup_ci_high or 2) < 1 / COLDER]
    for chosen, word, then in (
        (gains, "faster", "Whether the whole step gains is measured by the autocast change; check the accuracy"),
        (losses, "slower", "Leave them as they are"),
    ):
        if sum(row.share for row in chosen) >= NOTABLE:
            most = max(chosen, key=lambda row: abs(log(row.lower_speedup or 1)))
            yield Advice(
                topic="precision", layers=names(chosen),
                text=f"{passes(chosen)} {COLDER:g}x {word} or more alone in lower precision; most of all {most.case} "
                f"{most.pass_}, {_lower(most)} in {most.lower_dtype} by {most.lower_implementation}. {then}",
            )  # fmt: skip


def _lower(row: LayerRow) -> str:
    return ratio(row.lower_speedup or 1.0, row.lower_speedup_ci_low, row.lower_speedup_ci_high)


def _calls(profile: Profile) -> Iterator[Advice]:
    rows = [row for row in profile.rows if row.bound == CALL]
    share = sum(row.share for row in rows)
    if share >= NOTABLE and profile.step.call_s:
        yield Advice(
            topic="calls", layers=names(rows),
            text=f"{passes(rows)} smaller than a call of torch, {1e6 * profile.step.call_s:.0f} us here: their roof "
            f"allows less. Together they take {share:.0%} of the step. Batch more images, or capture the step "
            "(torch.compile with mode=\"reduce-overhead\" on a GPU)",
        )  # fmt: skip


def _cold(profile: Profile) -> Iterator[Advice]:
    denormal = {*profile.facts.weight_denormals, *profile.facts.input_denormals}  # explains it better
    rows = [row for row in profile.rows if _colder(row) and row.case not in denormal]
    excess = sum(row.step_s - row.calls * (row.isolated_s or 0.0) for row in rows) / profile.step.eager_s
    if excess >= NOTABLE:
        worst = max(rows, key=lambda row: row.median_s / (row.isolated_s or row.median_s))
        yield Advice(
            topic="cold", layers=names(rows),
            text=f"{passes(rows)} {COLDER:g}x slower or more inside the model than alone and warm, {excess:.0%} of the "
            f"step in all; most of all {worst.case} {worst.pass_}, {ms(worst.median_s)} against "
            f"{ms(worst.isolated_s)}{_with_cold_weights(worst)}. Alone, weights and input are in the caches and "
            "threads awake; in the model other layers come between. Smaller batches, or fused operators "
            "(torch.compile), keep data near",
        )  # fmt: skip


def _with_cold_weights(row: LayerRow) -> str:
    return "" if row.cold_s is None else f", and {ms(row.cold_s)} alone with its weights out of the caches"


def _colder(row: LayerRow) -> bool:
    return bool(row.isolated_high_s and row.ci_low_s and row.ci_low_s > COLDER * row.isolated_high_s)


def _prepacked(profile: Profile) -> Iterator[Advice]:
    if "backward" in profile.step.passes:
        return  # weights that change cannot be packed ahead
    rows = [row for row in profile.rows if (row.prepacked_speedup or 0) > max(row.best_speedup or 1, COLDER)]
    if sum(row.share for row in rows) >= NOTABLE:
        worst = max(rows, key=lambda row: row.share)
        yield Advice(
            topic="packing", layers=names(rows),
            text=f"{passes(rows)} {COLDER:g}x faster or more alone with weights packed ahead ({worst.case} "
            f"{worst.prepacked_speedup:.2g}x), which torch otherwise does at every call. For inference freeze it: "
            "`torch.compile` under `torch._inductor.config.freezing = True`, or channels_last",
        )  # fmt: skip


# The step -----------------------------------------------------------------------------------------


def _repacking(profile: Profile) -> Iterator[Advice]:
    for other in profile.step.operators:
        if not other.operator.startswith(REPACK) or other.share < NOTABLE:
            continue
        yield Advice(
            topic="repacking",
            text=f"{other.calls} {other.operator} a step take {ms(other.step_s)}, {other.share:.1%} of it. Keep one "
            "layout: convert the model and its input once, and avoid views that only one layout has",
        )  # fmt: skip
    mixed = [row for row in profile.rows if row.layout == MIXED_LAYOUT]
    if mixed:
        yield Advice(
            topic="repacking", layers=names(mixed),
            text=f"{passes(mixed)} called with an NCHW input and channels_last weights: torch repacks the input inside "
            "the call. Give the model a channels_last input",
        )  # fmt: skip


def _denormals(profile: Profile) -> Iterator[Advice]:
    for what, found in (("weights", profile.facts.weight_denormals), ("inputs", profile.facts.input_denormals)):
        if found:
            worst = max(found, key=lambda name: found[name])
            yield Advice(
                topic="denormals", layers=list(found),
                text=f"Denormal numbers in the {what} of {len(found)} layer{'s' * (len(found) > 1)}, most in {worst} "
                f"({found[worst]:,}): many processors take a hundred cycles for each. "
                "`torch.set_flush_denormal(True)` before the first "
                "operator, or weights below the smallest normal number set to 0",
            )  # fmt: skip


def _gridding(profile: Profile) -> Iterator[Advice]:
    read = {row.case: row.coverage for row in profile.rows}
    for chain in profile.facts.gridding:
        names = ", ".join(f"{name} (d{rate})" for name, rate in chain.layers)
        of_input = read.get(chain.layers[-1][0])
        pixels = (
            "" if of_input is None else f", with what is before them {of_input:.0%} of the input's pixels in theirs"
        )
        yield Advice(
            topic="gridding", layers=[name for name, _ in chain.layers],
            text=f"Gridding: {names} follow each other with rates that share a factor: together they read "
            f"{chain.coverage:.0%} of the positions in their window{pixels}, and neighbouring outputs never the same. "
            "Use rates without a common factor, such as 1, 2, 5, or end with an undilated layer (Wang et al. 2018)",
        )  # fmt: skip


def _others(profile: Profile) -> Iterator[Advice]:
    step = profile.step
    if step.convolutions_share < SMALL_CONVOLUTIONS and step.operators:
        named = ", ".join(f"{other.operator} {other.share:.0%}" for other in step.operators[:MOST_NAMED])
        yield Advice(
            topic="others",
            text=f"Convolutions are {step.convolutions_share:.0%} of the step: faster ones cannot save more. Beside "
            f"them: {named}",
        )  # fmt: skip


def _failed(profile: Profile) -> Iterator[Advice]:
    """What did not compute a layer, or not rightly: it takes no part in anything above."""
    failed = [row for row in profile.isolated if row.status in FAILED_STATUSES]
    for row in failed[:MOST_NAMED]:
        yield Advice(
            topic="verification", layers=[row.case],
            text=f"{row.implementation} failed alone on {row.case}, {row.pass_}, {row.dtype} ({spec_of(row)}): "
            f"{row.status}: {(row.status_detail or 'no reason given').partition('; to reproduce')[0]}",
        )  # fmt: skip
    if len(failed) > MOST_NAMED:
        yield Advice(topic="verification", text=f"{len(failed) - MOST_NAMED} more failures are in profile.json")


def _compiled(profile: Profile) -> Iterator[Advice]:
    step = profile.step
    if step.compiled:
        yield Advice(
            topic="compiled",
            text=f"The model uses torch.compile: {ms(step.median_s)} a step, {ms(step.eager_s)} without. Layers are "
            "timed in the step without, for compiled code does not show them",
        )  # fmt: skip
