"""Invented records for load tests; no figure in them was measured: python benchmarks/synthetic_records.py FOLDER ...

FOLDER --records 50 --rows 2000 --samples 40     for convbench compare
FOLDER --history --records 10000 --rows 24 --samples 10    for convbench history, with a step after two thirds
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from pathlib import Path

from convbench.case import Case
from convbench.count import compulsory_bytes, macs, params, valid_macs
from convbench.results import Environment, Peak, Record, RecordedRow, to_json
from convbench.roofline import attainable
from convbench.suites import names, resolve

IMPLEMENTATIONS = ("torch.aten", "torch.channels_last", "numba.auto", "numba.direct")
PEAKS = (("fma", "register", 2e11, None), ("copy", "L1", 4e11, 2**15), ("copy", "L2", 2e11, 2**20),
         ("copy", "DRAM", 3e10, 2**27))  # fmt: skip
FIRST, STEP = datetime(2026, 1, 1, tzinfo=UTC), 1.25


def layers(count: int) -> list[Case]:
    """Distinct layers: those of all suites, then the same in larger batches."""
    found = {}
    suites = [layer for name in names() for layer in resolve(name).layers]
    for batch in range(1, 100):
        for layer in suites:
            case = Case(layer.spec, suite=name_of(layer.name), name=layer.name)
            case = replace(case, spec=replace(case.spec, n=case.spec.n * batch))
            found.setdefault(case.spec, case)
            if len(found) == count:
                return list(found.values())
    return list(found.values())


def name_of(layer: str) -> str:
    return layer.partition(".")[0]


def record(number: int, cases: list[Case], options: argparse.Namespace, dice: random.Random) -> Record:
    """One run: of machine ``number``, or the number-th of one machine's history."""
    history = options.history
    speed = 1.0 if history else 1 + number / 10
    machine = "synthetic" if history else f"synthetic-{number:02}"
    started = FIRST + timedelta(hours=number)
    peaks = [Peak(quantity=q, level=level, device="cpu", dtype="float32", value=value * speed, working_set_bytes=size)
             for q, level, value, size in PEAKS]  # type: ignore[arg-type]  # fmt: skip
    made = Record(
        convbench_version="0.1.0", run_id=f"{started:%Y%m%dT%H%M%SZ}-{number:04x}", machine=machine, complete=True,
        started=started.isoformat(), peaks=peaks, settings={"threads": 2},
        environment=Environment(machine=machine, cpu={"model": machine}, git_revision=str(number)),
    )  # fmt: skip
    changed = history and number >= 2 * options.records // 3
    pairs = ((case, name) for case in cases for name in IMPLEMENTATIONS)
    for case, name in islice(cycle(pairs), options.rows):
        made.rows.append(
            row(made, case, name, options.samples, dice, STEP if changed and name == "numba.auto" else 1.0)
        )
    return made


def row(made: Record, case: Case, name: str, samples: int, dice: random.Random, faster: float) -> RecordedRow:
    """One timed cell."""
    spec, flops = case.spec, 2 * valid_macs(case.spec)
    roof = attainable(flops, compulsory_bytes(case), made.peaks, "cpu", "float32")
    assert roof
    base = flops / roof.flops_per_s / 0.6
    share = 0.6 * faster * dice.lognormvariate(0, 0.03)
    median = flops / roof.flops_per_s / share
    seconds = [median * dice.lognormvariate(0, 0.02) for _ in range(samples)]
    return RecordedRow(
        run_id=made.run_id, machine=made.machine, device="cpu", suite=case.suite, case=case.name,
        operator=spec.operator, kind=spec.kind, pass_="forward", dtype="float32", layout="nchw",
        n=spec.n, c=spec.c, h=spec.h, w=spec.w, k=spec.k, r=spec.r, s=spec.s,
        stride_h=spec.stride[0], stride_w=spec.stride[1], padding_h=spec.padding[0], padding_w=spec.padding[1],
        dilation_h=spec.dilation[0], dilation_w=spec.dilation[1], groups=spec.groups,
        output_padding_h=spec.output_padding[0], output_padding_w=spec.output_padding[1], bias=spec.bias,
        implementation=name, status="ok", samples=samples, median_s=median,
        ci_low_s=median * 0.99, ci_high_s=median * 1.01, macs=macs(spec), valid_macs=valid_macs(spec),
        params=params(spec), bytes=compulsory_bytes(case), roofline_fraction=share,
        gflops=2 * macs(spec) / median / 1e9, reference="torch.aten",
        speedup_vs_reference=1.0 if name == "torch.aten" else base / median,
        samples_s=seconds, rounds=list(range(samples)),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--records", type=int, default=50)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--history", action="store_true", help="One machine over time, and not many at once.")
    options = parser.parse_args()
    dice, cases = random.Random(0), layers(options.rows // len(IMPLEMENTATIONS))
    for number in range(options.records):
        made = record(number, cases, options, dice)
        folder = options.folder / f"{number // 1000}" / made.run_id
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_bytes(to_json(made))
    print(f"{options.folder}: {options.records} records of {options.rows} rows")


if __name__ == "__main__":
    main()
