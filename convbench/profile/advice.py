"""What to do about a model's convolutions, each with its evidence. Pure functions of a profile's plain data.

A gain is promised only where the whole model was measured under the change; everything else is named for what it is:
alone, on paper, by roofline. What was tried and did not help is said too, so that nobody tries it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from convbench.profile.model import CALL, MIXED_LAYOUT, REPACK, Advice, LayerRow, Profile, Variant

NOTABLE = 0.02  # share of the step below which a layer is not worth a word
COLDER = 1.5  # inside the model over alone
MOST_NAMED = 3
SMALL_CONVOLUTIONS = 0.5  # share of the step below which other operators are named


def advise(profile: Profile) -> list[Advice]:
    """Everything worth saying, what gains most first, then in the order of this list."""
    parts = (
        _variants, _separable, _cliffs, _calls, _cold, _prepacked, _repacking, _denormals, _gridding, _others,
        _compiled,
    )  # fmt: skip
    found = [advice for part in parts for advice in part(profile)]
    return sorted(found, key=lambda advice: -(advice.gain or 0.0))


# Changes to the whole step ------------------------------------------------------------------------


def _variants(profile: Profile) -> Iterator[Advice]:
    for variant in profile.variants:
        what, how, code = _described(variant)
        if variant.speedup is None:
            yield Advice(topic=_topic(variant), text=f"{what} was not measured: {variant.reason}")
            continue
        evidence = f"{_ratio(variant.speedup, variant.ci_low, variant.ci_high)}, measured on the whole step"
        if variant.error:
            evidence += f"; the output differs by {variant.error:.0e}"
        if profile.warnings and _topic(variant) == "threads":  # busy neighbours slow many threads more than one
            yield Advice(topic="threads", text=f"{what} gives {evidence}, while other work disturbed the machine: no "
                         "advice; measure again when it is idle")  # fmt: skip
        elif variant.ci_low and variant.ci_low > 1:
            yield Advice(topic=_topic(variant), text=f"{what} makes the step faster: {evidence}. {how}", code=code,
                         gain=variant.speedup)  # fmt: skip
        elif variant.ci_high and variant.ci_high < 1:
            yield Advice(topic=_topic(variant), text=f"{what} makes the step slower: {evidence}. Leave it")
        else:
            yield Advice(topic=_topic(variant), text=f"{what} makes no difference that can be told: {evidence}")


def _topic(variant: Variant) -> str:
    return variant.name.partition(" ")[0]


def _described(variant: Variant) -> tuple[str, str, str]:
    """(what was changed, how to do it, the code for it)."""
    name, _, rest = variant.name.partition(" ")
    if name == "kernels":
        entries = "".join(f"    {key!r}: {value!r},\n" for key, value in variant.detail["use_kernels"].items())
        code = f"KERNELS = {{\n{entries}}}\nwith convbench.use_kernels(KERNELS):\n    model(x)"
        return "Swapping in the kernels that are fastest alone", "Run the model under convbench.use_kernels", code
    return {
        "channels_last": (
            "The channels_last layout", "Convert model and inputs once",
            "model = model.to(memory_format=torch.channels_last)\nx = x.to(memory_format=torch.channels_last)",
        ),
        "bfloat16": (
            "bfloat16 by autocast", "Check the accuracy on your data",
            "with torch.autocast(x.device.type, torch.bfloat16):\n    model(x)",
        ),
        "threads": (
            "Running on one thread" if rest == "1" else f"Running on {rest} threads",
            "Set it before the first operator, or OMP_NUM_THREADS in the environment",
            f"torch.set_num_threads({rest})",
        ),
        "no": (
            "Setting denormal weights to 0", "Do so after loading them, or let the processor do it",
            "torch.set_flush_denormal(True)",
        ),
    }.get(name, (variant.name, "", ""))  # fmt: skip


# Layers -------------------------------------------------------------------------------------------


def _separable(profile: Profile) -> Iterator[Advice]:
    for pair in [pair for pair in profile.separable if pair.share >= NOTABLE][:MOST_NAMED]:
        roof = "" if pair.roofline is None else f", {pair.roofline:.2g}x by this machine's roofline"
        measured, then = "not measured", "It must be trained anew"
        if pair.measured is not None:
            measured = f"{_ratio(pair.measured, pair.measured_low, pair.measured_high)} measured alone"
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
            text=f"{cliff.case}: {cliff.c} -> {cliff.k} channels take longer than {cliff.more_c} -> {cliff.more_k}: "
            f"{_ratio(cliff.speedup, cliff.ci_low, cliff.ci_high)} alone. Use the larger number",
        )  # fmt: skip


def _calls(profile: Profile) -> Iterator[Advice]:
    rows = [row for row in profile.rows if row.bound == CALL]
    share = sum(row.share for row in rows)
    if share >= NOTABLE and profile.step.call_s:
        yield Advice(
            topic="calls", layers=_names(rows),
            text=f"{_count(rows)} smaller than a call of torch, {1e6 * profile.step.call_s:.0f} us here: their roof "
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
            topic="cold", layers=_names(rows),
            text=f"{_count(rows)} {COLDER:g}x slower or more inside the model than alone and warm, {excess:.0%} of the "
            f"step in all; most of all {worst.case} {worst.pass_}, {_ms(worst.median_s)} against "
            f"{_ms(worst.isolated_s)}. Alone, weights and input are in the caches and threads awake; in the model "
            "other layers come between. Smaller batches, or fused operators (torch.compile), keep data near",
        )  # fmt: skip


def _colder(row: LayerRow) -> bool:
    return bool(row.isolated_high_s and row.ci_low_s and row.ci_low_s > COLDER * row.isolated_high_s)


def _prepacked(profile: Profile) -> Iterator[Advice]:
    if "backward" in profile.step.passes:
        return  # weights that change cannot be packed ahead
    rows = [row for row in profile.rows if (row.prepacked_speedup or 0) > max(row.best_speedup or 1, COLDER)]
    if sum(row.share for row in rows) >= NOTABLE:
        worst = max(rows, key=lambda row: row.share)
        yield Advice(
            topic="packing", layers=_names(rows),
            text=f"{_count(rows)} {COLDER:g}x faster or more alone with weights packed ahead ({worst.case} "
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
            text=f"{other.calls} {other.operator} a step take {_ms(other.step_s)}, {other.share:.1%} of it. Keep one "
            "layout: convert the model and its input once, and avoid views that only one layout has",
        )  # fmt: skip
    mixed = [row for row in profile.rows if row.layout == MIXED_LAYOUT]
    if mixed:
        yield Advice(
            topic="repacking", layers=_names(mixed),
            text=f"{_count(mixed)} called with an NCHW input and channels_last weights: torch repacks the input inside "
            "the call. Give the model a channels_last input",
        )  # fmt: skip


def _denormals(profile: Profile) -> Iterator[Advice]:
    for what, found in (("weights", profile.facts.weight_denormals), ("inputs", profile.facts.input_denormals)):
        if found:
            worst = max(found, key=lambda name: found[name])
            yield Advice(
                topic="denormals", layers=list(found),
                text=f"Denormal numbers in the {what} of {len(found)} layers, most in {worst} ({found[worst]:,}): "
                "many processors take a hundred cycles for each. `torch.set_flush_denormal(True)` before the first "
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


def _compiled(profile: Profile) -> Iterator[Advice]:
    step = profile.step
    if step.compiled:
        yield Advice(
            topic="compiled",
            text=f"The model uses torch.compile: {_ms(step.median_s)} a step, {_ms(step.eager_s)} without. Layers are "
            "timed in the step without, for compiled code does not show them",
        )  # fmt: skip


# Words --------------------------------------------------------------------------------------------


def _ratio(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.2f}x" + (f" ({low:.2f} - {high:.2f})" if low and high else "")


def _ms(seconds: float | None) -> str:
    return f"{1e3 * (seconds or 0.0):.3g} ms"


def _count(rows: Sequence[LayerRow]) -> str:
    return "One pass of a layer is" if len(rows) == 1 else f"{len(rows)} passes of layers are"


def _names(rows: Sequence[LayerRow]) -> list[str]:
    return list(dict.fromkeys(row.case for row in sorted(rows, key=lambda row: -row.share)))
