"""What entropy do the policies of the bundled teachers have at the paper's temperature, and which has a target entropy?

    python -m benchmarks.studies.target_entropy

Of teachers that choose among actions. Each plays some steps; the entropies are means over them, as shares of the
logarithm of the number of actions. The default of ``loss.target_entropy`` was chosen by :mod:`.all_losses`.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import record
from pd_jax.config.sections import LossConfig
from pd_jax.evaluation.action_gaps import played_outputs
from pd_jax.learner.temperature import temperature_of
from pd_jax.losses import policy_entropy
from pd_jax.report.paper import TEMPERATURE
from pd_jax.teachers import load
from pd_jax.teachers.catalogue import bundled_files


def main() -> None:
    """Measures, prints and writes ``benchmarks/results/target_entropy.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=3_000, help="of each teacher's play")
    parser.add_argument("--teachers", nargs="+", help="all that choose among actions by default")
    parser.add_argument("--name", default="target_entropy", help="of the result file")
    options = parser.parse_args()
    names = options.teachers or [name for name in bundled_files() if not load(name).task.is_continuous]
    rows = [_measure(name, options.states) for name in names]
    median = float(np.median([row["share"] for row in rows]))
    path = record.write(options.name, {"states": options.states, "rows": rows, "median_share": median})
    table = Table("teacher", "actions", f"share at τ = {TEMPERATURE:g}", "exp(H)", "τ for the default target")
    for row in rows:
        numbers = f"{row['share']:.3f}", f"{row['open_actions']:.2f}", f"{row['temperature']:.2g}"
        table.add_row(row["teacher"], str(row["actions"]), *numbers)
    Console().print(table)
    print(path)


def _measure(name: str, states: int) -> dict[str, Any]:
    outputs = jnp.asarray(played_outputs(load(name), states, epsilon=0.05, seed=0))
    actions = outputs.shape[1]
    entropy = float(policy_entropy(outputs, temperature=TEMPERATURE).mean())
    target = jnp.float32([LossConfig().target_entropy * math.log(actions)])
    (found,), _ = temperature_of(outputs[None], jnp.ones((1, actions), bool), target)
    return {
        "teacher": name,
        "actions": actions,
        "share": entropy / math.log(actions),
        "open_actions": math.exp(entropy),
        "temperature": float(found),
    }


if __name__ == "__main__":
    main()
