"""Profiles of one model side by side, before and after a change or on two machines: layer by layer, as plain data.

Rows are joined by module, pass and shape. Type and layout may differ: a change of them is what one looks at. Ratios
are the first profile's time over the other's: above 1 the other is faster, and a tie where the interval holds 1.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import msgspec

from convbench.errors import InputError
from convbench.measure import Interval
from convbench.profile.model import LayerRow, Profile
from convbench.ratios import Score, quotient, score
from convbench.records import spec_of
from convbench.results import check_version
from convbench.spec import PASSES
from convbench.untrusted import DECODE_ERRORS, check_rows, read_limited

FILE = "profile.json"
HEAD_BYTES = 200  # the document says its command at the beginning
Key = tuple


@dataclass(frozen=True)
class Pair:
    """One pass of one layer on the baseline (a) and on the other (b)."""

    a: LayerRow
    b: LayerRow

    @cached_property
    def ratio(self) -> Interval:
        """Time of one call inside the model, a / b."""
        return quotient(_inside(self.a), _inside(self.b))

    @cached_property
    def alone(self) -> Interval | None:
        """The same alone; None where one has no time."""
        a, b = _alone(self.a), _alone(self.b)
        return quotient(a, b) if a and b else None

    @property
    def won_s(self) -> float:
        """Seconds a step that b takes less for all calls."""
        return self.a.step_s - self.b.step_s


@dataclass(frozen=True)
class Side:
    """One profile, its short name, and its rows by what they are joined by."""

    label: str
    path: Path
    profile: Profile
    rows: dict[Key, LayerRow] = field(repr=False)


@dataclass(frozen=True)
class Against:
    """One profile against the baseline."""

    baseline: Side
    side: Side

    @cached_property
    def pairs(self) -> list[Pair]:
        """What both have, what changes the step most first."""
        rows = self.side.rows
        found = [Pair(row, rows[key]) for key, row in self.baseline.rows.items() if key in rows]
        return sorted(found, key=lambda pair: -abs(pair.won_s))

    @cached_property
    def only(self) -> tuple[list[LayerRow], list[LayerRow]]:
        """Rows of the baseline alone, and of the other alone."""
        a, b = self.baseline.rows, self.side.rows
        return [row for key, row in a.items() if key not in b], [row for key, row in b.items() if key not in a]

    @cached_property
    def step(self) -> Interval | None:
        """Ratio of the steps; None where they are not the same passes."""
        a, b = self.baseline.profile.step, self.side.profile.step
        if a.passes != b.passes:
            return None
        return quotient(Interval(a.median_s, a.ci_low_s, a.ci_high_s), Interval(b.median_s, b.ci_low_s, b.ci_high_s))

    @cached_property
    def score(self) -> Score | None:
        """All layers in one line."""
        return score([pair.ratio for pair in self.pairs])

    def sums(self) -> Iterator[tuple[str, float, float, int]]:
        """For each pass in common: its name, seconds a step on both, and how many layers."""
        for pass_ in PASSES:
            pairs = [pair for pair in self.pairs if pair.a.pass_ == pass_]
            if pairs:
                yield pass_, sum(p.a.step_s for p in pairs), sum(p.b.step_s for p in pairs), len(pairs)

    def operators(self) -> list[tuple[str, float, float]]:
        """What runs beside the convolutions: its name and seconds a step on both, what changes most first."""
        a, b = ({o.operator: o.step_s for o in side.profile.step.operators} for side in (self.baseline, self.side))
        found = [(name, a.get(name, 0.0), b.get(name, 0.0)) for name in dict.fromkeys((*a, *b))]
        return sorted(found, key=lambda each: -abs(each[1] - each[2]))


def named(arguments: Sequence[str]) -> bool:
    """Whether the arguments are profiles. Raises InputError where some are and some are not."""
    found = [_file(Path(argument)) is not None for argument in arguments]
    if any(found) and not all(found):
        profiles, runs = (next(a for a, is_one in zip(arguments, found, strict=True) if is_one == w) for w in (1, 0))
        raise InputError(f"{profiles} is a profile and {runs} is not; compare profiles with profiles, runs with runs")
    return any(found)


def compare(arguments: Sequence[str]) -> list[Against]:
    """Every profile after the first against it. Raises InputError for a file that is none, or fewer than two."""
    if len(arguments) < 2:
        raise InputError(f"one profile to compare, {arguments[0]}; give the one before and the one after")
    paths = [path for argument in arguments if (path := _file(Path(argument)))]
    sides = [_side(label, path) for label, path in zip(_labels(paths), paths, strict=True)]
    return [Against(sides[0], side) for side in sides[1:]]


def _side(label: str, path: Path) -> Side:
    profile = load(path)
    try:
        return Side(label, path, profile, _rows(profile.rows))
    except InputError as error:  # of a convolution that cannot be
        raise InputError(f"{path}: {error}; profile it again") from None


def load(path: Path) -> Profile:
    """Read and validate a profile.json. Raises InputError naming the file."""
    data = read_limited(path, f"give the {FILE} of `convbench profile --out DIR`")
    check_version(path, data)  # of a newer one anything may have changed
    try:
        found = msgspec.json.decode(data, type=Profile)
    except DECODE_ERRORS as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a profile that this convbench reads: {reason}; profile it again") from None
    check_rows(path, len(found.rows))
    return found


def _file(argument: Path) -> Path | None:
    """The profile that an argument names; None where it names none."""
    path = argument / FILE if argument.is_dir() else argument
    if not path.is_file():  # of a pipe a look would take the beginning
        return None
    try:
        with path.open("rb") as file:
            return path if re.search(rb'"command":\s*"profile"', file.read(HEAD_BYTES)) else None
    except OSError:
        return None


def _labels(paths: Sequence[Path]) -> list[str]:
    """A short unique name each: the folder of a profile.json, the name of another file, or else the whole path."""
    names = [path.resolve().parent.name if path.name == FILE else path.stem for path in paths]
    counts = Counter(names)
    unique = [name if counts[name] == 1 else str(path) for name, path in zip(names, paths, strict=True)]
    return [f"{name} ({number})" if unique.count(name) > 1 else name for number, name in enumerate(unique, 1)]


def _rows(rows: Iterable[LayerRow]) -> dict[Key, LayerRow]:
    """By module, pass and shape; a module with two rows of one shape, in two types say, keeps both in their order."""
    found, seen = dict[Key, LayerRow](), Counter[Key]()
    for row in rows:
        key = (row.case, row.pass_, spec_of(row))
        found[*key, seen[key]] = row
        seen[key] += 1
    return found


def _inside(row: LayerRow) -> Interval:
    return Interval(row.median_s, row.ci_low_s, row.ci_high_s)


def _alone(row: LayerRow) -> Interval | None:
    return Interval(row.isolated_s, row.isolated_low_s, row.isolated_high_s) if row.isolated_s else None
