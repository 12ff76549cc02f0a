"""A plan of a run on devices, as tables in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from pd_jax.system.text import spell_bytes, spell_count

if TYPE_CHECKING:
    from pd_jax.resources.plan.summary import Plan, ProgramReport

_UNKNOWN = "–"


def print_plan(plan: Plan) -> None:
    """Prints the programs, whether they fit, and how fast the run can be, on stdout."""
    table = programs_table(plan)
    console = _console(table)
    console.print(_heading(plan), soft_wrap=True)
    console.print(table)
    for line in plan_notes(plan):
        console.print(Text(line), soft_wrap=True)


def print_search(plans: Sequence[Plan]) -> None:
    """Prints what a search tried, the best first, on stdout."""
    table = _table("minibatch", "lanes", "fits", "memory", "updates/s", "samples/s", "steps/s", "bound by")
    for plan in plans:
        rates = plan.rates
        cells = (_UNKNOWN,) * 4
        if rates is not None:
            speed = rates.bound_updates_per_second
            cells = (
                f"{speed:,.0f}",
                f"{speed * plan.minibatch:,.0f}",
                f"{rates.bound_steps_per_second:,.0f}",
                rates.bound_by,
            )
        fits = {True: "yes", False: "no", None: _UNKNOWN}[plan.fits]
        table.add_row(f"{plan.minibatch:,}", f"{plan.lanes[0]:,}", fits, spell_bytes(plan.needed_bytes), *cells)
    console = _console(table)
    console.print("\nsearch, the best first")
    console.print(table)


def programs_table(plan: Plan) -> Table:
    """One row for each program."""
    table = _table(
        "program", "arguments", "temporaries", "code", "GFLOP", "traffic", "ring copies", "all-reduces", "estimate",
        "floor",
    )  # fmt: skip
    for report in plan.programs.values():
        if report.fault:
            table.add_row(Text(report.name), Text(report.fault.split(" (")[0]), *[""] * 8)
            continue
        reduced = "–" if not report.all_reduces else " + ".join(map(spell_bytes, report.all_reduces))
        table.add_row(
            Text(report.name),
            _bytes(report.argument_bytes),
            _bytes(report.temporary_bytes),
            _bytes(report.code_bytes),
            _UNKNOWN if report.flops is None else f"{report.flops / 1e9:,.2f}",
            _bytes(report.bytes_accessed),
            _copies(report),
            reduced,
            _seconds(report.estimated_seconds),
            _seconds(report.floor_seconds),
        )
    return table


def plan_notes(plan: Plan) -> list[str]:
    """The lines below the table."""
    lines = [f"{fault}" for fault in plan.faults]
    room = "of an unknown size" if plan.memory_bytes is None else f"of {spell_bytes(plan.memory_bytes)}"
    fits = {True: "fits", False: "does not fit", None: "may fit"}[plan.fits]
    left = ""
    if plan.memory_bytes is not None:
        rest = plan.memory_bytes - plan.needed_bytes
        left = f", {spell_bytes(abs(rest))} {'left' if rest >= 0 else 'too much'}"
    lines.append(
        f"memory of a device: {spell_bytes(plan.needed_bytes)} {room}: {fits}{left} "
        f"({spell_bytes(plan.resident_bytes)} stay, the rest comes and goes)"
    )
    if plan.fits is False and plan.largest_capacity:
        lines.append(f"replay.capacity: about {plan.largest_capacity:,} steps of each game fit")
    rates = plan.rates
    if rates is None:
        return [*lines, "speed: neither the compiler nor the device's figures say how long an update takes"]
    lines.append(
        f"updates: at most {rates.updates_per_second:,.0f} a second, and {rates.steps_per_update:.3g} control steps "
        f"for each: {rates.steps_per_second:,.0f} steps a second keep them busy"
    )
    if rates.efficiency is not None:
        lines.append(f"all-reduce: {100 * (1 - rates.efficiency):.0f} % of the time of an update, if nothing hides it")
    cores = "" if rates.cores is None else f"; there are {plan.hosts} x {rates.cores // plan.hosts}"
    lines.append(
        f"play: {rates.cores_needed:,.0f} host cores step so many{cores}, and {rates.lanes_at_once:,} lanes at once"
    )
    lines.append(
        f"bound by {rates.bound_by}: {rates.bound_updates_per_second:,.0f} updates and "
        f"{rates.bound_steps_per_second:,.0f} control steps a second at the most. Nothing of this was measured."
    )
    return lines


def _console(table: Table) -> Console:
    """Wide enough for all columns, whoever reads it: a table that is cut says nothing."""
    console = Console(file=sys.stdout, highlight=False)
    wanted = Measurement.get(console, console.options.update(width=1000), table).maximum
    return Console(file=sys.stdout, highlight=False, width=max(console.width, wanted))


def _heading(plan: Plan) -> Text:
    games = ", ".join(plan.games) if len(plan.games) <= 3 else f"{len(plan.games)} games"
    where = f"{plan.devices} {plan.device} in {spell_count(plan.hosts, 'host')}"
    return Text(
        f"{games} into {plan.student}, minibatch {plan.minibatch:,}, {plan.lanes[0]:,} lanes of each game, "
        f"on {plan.topology}: {where} ({plan.versions['compiler']})"
    )


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _copies(report: ProgramReport) -> str:
    return _UNKNOWN if not report.ring_bytes or report.ring_copies is None else f"{report.ring_copies}"


def _bytes(number: float | None) -> str:
    return _UNKNOWN if number is None else spell_bytes(round(number))


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return _UNKNOWN
    return f"{1e6 * seconds:,.0f} µs" if seconds < 1e-3 else f"{1e3 * seconds:,.2f} ms"
