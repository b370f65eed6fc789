"""What to say of each change that was tried on the whole step, also of those that did not help."""

from __future__ import annotations

from collections.abc import Iterator

from convbench.profile.model import Advice, Profile, Variant
from convbench.profile.words import ratio


def changed(profile: Profile) -> Iterator[Advice]:
    for variant in profile.variants:
        what, how, code = _described(variant)
        if variant.speedup is None:
            yield Advice(topic=_topic(variant), text=f"{what} was not measured: {variant.reason}")
            continue
        evidence = f"{ratio(variant.speedup, variant.ci_low, variant.ci_high)}, measured on the whole step"
        if variant.error:
            evidence += f"; the output differs by {variant.error:.0e}"
        if variant.ci_low is None:
            yield Advice(topic=_topic(variant), text=f"{what}: {variant.speedup:.2f}x so far, too few samples to tell")
        elif profile.warnings and _topic(variant) == "threads":  # busy neighbours slow many threads more than one
            yield Advice(topic="threads", text=f"{what} gives {evidence}, while other work disturbed the machine: no "
                         "advice; measure again when it is idle")  # fmt: skip
        elif variant.ci_low and variant.ci_low > 1:
            yield Advice(topic=_topic(variant), text=f"{what} makes the step faster: {evidence}. {how}", code=code,
                         gain=variant.speedup)  # fmt: skip
        elif variant.ci_high and variant.ci_high < 1 and variant.detail.get("usual"):
            yield Advice(
                topic="threads", code=f"torch.set_num_threads({profile.step.threads})",
                text=f"{what}, as torch does here unless told otherwise, makes the step slower than on "
                f"{profile.step.threads}: {evidence}. Set their number before the first operator, or OMP_NUM_THREADS",
            )  # fmt: skip
        elif variant.ci_high and variant.ci_high < 1:
            yield Advice(topic=_topic(variant), text=f"{what} makes the step slower: {evidence}. Leave it")
        else:
            yield Advice(topic=_topic(variant), text=f"{what} makes no difference that can be told: {evidence}")


def _topic(variant: Variant) -> str:
    return variant.name.partition(" ")[0]


def _described(variant: Variant) -> tuple[str, str, str]:
    """(What was changed, how to do it, the code for it)."""
    name, _, rest = variant.name.partition(" ")
    if name in ("kernels", "kernel"):
        entries = "".join(f"    {key!r}: {value!r},\n" for key, value in variant.detail["use_kernels"].items())
        code = f"KERNELS = {{\n{entries}}}\nwith convbench.use_kernels(KERNELS):\n    model(x)"
        wanted = variant.detail["use_kernels"].get(rest)
        what = f"Swapping in {wanted} for {rest} alone" if wanted else "Swapping in the kernels that are fastest alone"
        return what, "Run the model under convbench.use_kernels", code
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
        "deterministic": (
            "Leaving torch the choice of algorithms", "It is set to deterministic ones: keep that where you need it",
            "torch.use_deterministic_algorithms(False)",
        ),
        "oneDNN": ("Switching oneDNN on", "It is switched off", "torch.backends.mkldnn.enabled = True"),
        "cudnn.benchmark": (
            "Letting cuDNN try its algorithms", "Do so where shapes seldom change",
            "torch.backends.cudnn.benchmark = True",
        ),
        "cudnn.deterministic": (
            "Leaving cuDNN the choice of algorithms", "It is set to deterministic ones: keep that where you need it",
            "torch.backends.cudnn.deterministic = False",
        ),
        "TF32": (
            "TF32 in cuDNN's convolutions", "It keeps 10 bits of 23; check the accuracy on your data",
            "torch.backends.cudnn.allow_tf32 = True",
        ),
        "flush": (
            "Flushing denormal numbers to 0 on the calling thread",
            "Set it before the first operator: then every thread flushes them", "torch.set_flush_denormal(True)",
        ),
        "no": (
            "Setting denormal weights to 0", "Do so after loading them, or let the processor do it",
            "torch.set_flush_denormal(True)",
        ),
    }.get(name, (variant.name, "", ""))  # fmt: skip
