"""Prints the plan: options with reasons, layers, memory."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from ganvas.data.packing.pack import Pack
from ganvas.errors import amount
from ganvas.models.summary import Summary
from ganvas.training.plan import Plan


def show_plan(plan: Plan, pack: Pack, console: Console, layers: bool = True) -> None:
    """Prints each chosen option with its reason, one per line; with `layers` also the layers of both networks."""
    classes = f" in {amount(pack.num_classes, 'class', 'classes')}" if pack.num_classes else ""
    classes += f" with {amount(len(pack.schema.columns), 'condition')}" if pack.schema is not None else ""
    mirrored = ", mirrored at random" if pack.mirror else ""
    depth = ", 16 bit" if pack.depth == 16 else ""
    size = f"{pack.height}x{pack.width}x{pack.channels}{depth}"

    def say(line: str) -> None:
        console.print(line, markup=False)

    aside = f", {len(pack.heldout):,} of them held out" if len(pack.heldout) else ""
    say(f"{pack.num_images:,} images of {size}{classes}{aside}, kind {pack.kind}{mirrored}")
    for choice in plan.choices:
        say(f"  {choice.name:<17}{value_text(choice.value):<12} {choice.reason}")
    for name, summary in (("generator", plan.generator), ("discriminator", plan.discriminator)):
        if layers:
            console.print(_layer_table(name, summary))
        say(f"  {name:<17}{summary.parameters:,} parameters, {summary.macs / 1e6:,.1f} M multiply-adds per image")
    for warning in plan.warnings:
        console.print(f"  warning: {warning}", markup=False, style="bold yellow")
    say(f"  {'memory':<17}about {plan.memory / 2**20:,.0f} MiB")


def _layer_table(name: str, summary: Summary) -> Table:
    table = Table("layer", "kind", "output", title=name, title_justify="left")
    table.add_column("parameters", justify="right")
    table.add_column("M multiply-adds", justify="right")
    for row in summary.rows:
        shape = "x".join(map(str, row.shape))
        table.add_row(row.name, row.kind, shape, f"{row.parameters:,}", f"{row.macs / 1e6:,.2f}")
    return table


def value_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        f"{value:g}"
        if isinstance(value, float) and value < 1e4
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )
