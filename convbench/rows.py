"""From one finished cell to one row: the only place where columns are filled."""

from __future__ import annotations

from dataclasses import dataclass

from convbench import count
from convbench.case import Case
from convbench.measure import Policy, Samples, interquartile_range, remarks, series_interval, speedup
from convbench.plugin import Implementation, Kernel
from convbench.records import shape_columns
from convbench.results import GpuCell, Record, RecordedRow, Status
from convbench.roofline import attainable
from convbench.untrusted import one_line
from convbench.verify import Verification


@dataclass
class Cell:
    """One case x implementation while it is being worked on."""

    implementation: Implementation
    status: Status = "ok"
    detail: str = ""
    kernel: Kernel | None = None
    compile_s: float | None = None
    verification: Verification | None = None
    samples: Samples | None = None
    gpu: GpuCell | None = None

    @property
    def built(self) -> Kernel:
        """The kernel of a cell that was built."""
        assert self.kernel
        return self.kernel

    def fail(self, status: Status, detail: str) -> None:
        """The first failure is the one reported."""
        if self.status == "ok":
            self.status, self.detail = status, detail

    def judge(self, verification: Verification) -> None:
        """Take a verification in: the larger error stays, a failure ends the cell."""
        if self.verification is None or (verification.error or 0) >= (self.verification.error or 0):
            self.verification = verification
        if verification.status != "ok":
            self.verification = verification
            self.fail(verification.status, verification.detail)


def make_row(case: Case, cell: Cell, reference: Cell | None, record: Record, policy: Policy) -> RecordedRow:
    """The row of a finished cell; a failed one has no times."""
    row = _identity(case, cell, record)
    if cell.verification:
        row.error, row.tolerance = cell.verification.error, cell.verification.tolerance
    row.macs, row.valid_macs = count.macs(case.spec, case.pass_), count.valid_macs(case.spec, case.pass_)
    row.params = count.params(case.spec)
    row.bytes = count.compulsory_bytes(case)
    if cell.status == "ok" and cell.samples:
        _add_times(row, cell.samples, policy)
        _add_roofline(row, record)
        if reference and reference.status == "ok" and reference.samples:
            _add_speedup(row, reference, cell.samples)
    row.gpu = cell.gpu
    if cell.gpu and cell.gpu.throttled:
        row.notes.append(f"the GPU's clock was held down: {', '.join(cell.gpu.throttled)}")
    if cell.status == "ok" and cell.verification and cell.verification.detail:
        row.notes.append(cell.verification.detail)
    return row


def _identity(case: Case, cell: Cell, record: Record) -> RecordedRow:
    return RecordedRow(
        run_id=record.run_id, machine=record.machine, device=case.device, suite=case.suite, case=case.name,
        pass_=case.pass_, dtype=case.dtype, layout=cell.implementation.layout, **shape_columns(case.spec),
        implementation=cell.implementation.name, algorithm=one_line(cell.kernel.algorithm) if cell.kernel else None,
        status=cell.status, status_detail=one_line(cell.detail) or None, compile_s=cell.compile_s, count=case.count,
    )  # fmt: skip


def _add_times(row: RecordedRow, samples: Samples, policy: Policy) -> None:
    median = series_interval(samples.seconds)
    row.samples = len(samples.seconds)
    row.median_s, row.ci_low_s, row.ci_high_s = median.value, median.low, median.high
    row.iqr_s = interquartile_range(samples.seconds)
    row.calls_per_sample = samples.calls_per_sample
    row.samples_s, row.rounds = samples.seconds, samples.rounds
    row.notes = remarks(samples, policy)


def _add_roofline(row: RecordedRow, record: Record) -> None:
    assert row.macs and row.valid_macs is not None and row.bytes and row.median_s
    row.gflops = 2 * row.macs / row.median_s / 1e9
    row.gbytes_per_s = row.bytes / row.median_s / 1e9
    if not row.valid_macs:  # every tap lies on padding: there is nothing to compute, and no roof over it
        return
    roof = attainable(2 * row.valid_macs, row.bytes, record.peaks, row.device, row.dtype)
    if roof is None:
        return
    row.attainable_gflops = roof.flops_per_s / 1e9
    row.roofline_fraction = 2 * row.valid_macs / row.median_s / roof.flops_per_s
    if row.roofline_fraction > 1:
        row.notes.append(f"above the roof: {row.roofline_fraction:.0%} of what the measured peaks allow")


def _add_speedup(row: RecordedRow, reference: Cell, samples: Samples) -> None:
    assert reference.samples
    row.reference = reference.implementation.name
    ratio = speedup(reference.samples, samples)
    if ratio:
        row.speedup_vs_reference, row.speedup_ci_low, row.speedup_ci_high = ratio.value, ratio.low, ratio.high
