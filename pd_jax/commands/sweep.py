"""``pd-jax sweep``: distils a grid of students, and compares them."""

from __future__ import annotations

from pathlib import Path

from pd_jax.config.sweep import SweepConfig
from pd_jax.errors import UserError
from pd_jax.sweep.session import sweep
from pd_jax.sweep.summary import format_table


def run(config: SweepConfig) -> None:
    """Runs all cells, and prints their table.

    Raises:
      UserError: cells failed; the table has the reasons.
    """
    table = sweep(config)
    print(format_table(table), end="")
    if config.cells is None:
        print(f"{Path(config.out)}: table.md, table.json, cells/")
    else:
        print(f"{Path(config.out)}: cells/; once all are trained, --resume without --cells makes the table of all")
    failed = [cell["cell"] for cell in table["cells"] if "failure" in cell]
    if failed:
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        reasons = "table.md has the reasons" if config.cells is None else "the table has the reasons"
        raise UserError(f"{len(failed)} of {len(table['cells'])} cells failed: {failed[0]}{more}; {reasons}")
