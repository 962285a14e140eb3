"""Where the time of a run went."""

from __future__ import annotations

from tabulate import tabulate

from vpntest.probe.observation import Record
from vpntest.report.text import plain


def render(record: Record) -> str:
    """One line for each phase, in the order of beginning, and the whole. Phases of several tunnels overlap."""
    phases = sorted(record.run.phases, key=lambda phase: (phase.t0, -phase.t))
    rows = [[plain(phase.name), f"{phase.t0:.1f}", f"{phase.t:.1f}", f"{phase.t - phase.t0:.1f}"] for phase in phases]
    rows.append(["the whole run", "0.0", f"{record.run.seconds:.1f}", f"{record.run.seconds:.1f}"])
    columns = ["phase", "from (s)", "to (s)", "took (s)"]
    aligned = ("left", "right", "right", "right")
    return str(tabulate(rows, columns, tablefmt="simple", disable_numparse=True, colalign=aligned))
