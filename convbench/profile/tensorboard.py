"""A profile as TensorBoard scalars: one run a profile, so that several in one folder lie side by side."""

from __future__ import annotations

from pathlib import Path

from convbench.errors import InputError, OutputError
from convbench.profile.export import markdown
from convbench.profile.model import Profile


def check() -> None:
    """Raises InputError where tensorboard is not installed: before anything is measured."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--tensorboard needs tensorboard, which cannot be imported ({error}); "
            "`pip install 'convbench[tensorboard]'`"
        ) from None


def scalars(found: Profile) -> dict[str, float]:
    """Tag -> value: the step, the changes tried on it, and of each layer and pass time, share and roof."""
    step = found.step
    values: dict[str, float | None] = {
        "step/ms": 1e3 * step.median_s, "step/convolutions_ms": 1e3 * step.convolutions_s,
        "step/convolutions_share": step.convolutions_share, "step/watching": step.distortion,
    }  # fmt: skip
    values |= {f"change/{variant.name}": variant.speedup for variant in found.variants}
    for row in found.rows:
        name = f"{row.case}/{row.pass_}"
        values |= {f"ms/{name}": 1e3 * row.median_s, f"share/{name}": row.share,
                   f"of_roof/{name}": row.roofline_fraction, f"fastest_alone/{name}": row.best_speedup}  # fmt: skip
    return {tag: value for tag, value in values.items() if value is not None}


def write(found: Profile, folder: Path) -> Path:
    """Write an event file into a folder of the profile's own; the text of the advice too. Raises OutputError."""
    from torch.utils.tensorboard import SummaryWriter

    run = folder / found.run_id
    try:
        with SummaryWriter(str(run)) as writer:
            for tag, value in scalars(found).items():
                writer.add_scalar(tag, value)
            writer.add_text("profile", markdown(found))
    except OSError as error:
        raise OutputError(f"--tensorboard {folder}: {error.strerror}; choose another folder") from None
    return run
