"""``pd-jax plan``: what a distillation takes on devices that need not be there."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from pd_jax.config.plan import PlanConfig
from pd_jax.errors import UserError
from pd_jax.system.files import write_atomically
from pd_jax.system.progress import print_line


def run(config: PlanConfig) -> None:
    """Compiles the programs, prints what their compiler says, and writes it if the settings say where."""
    if config.topology != "here":
        # JAX is not to look for the devices whose compilers it is about to use. To be set before it is imported.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from pd_jax.report.plans import print_plan, print_search
    from pd_jax.resources.plan.compilers import prepare_environment
    from pd_jax.resources.plan.plan import make_plan
    from pd_jax.resources.plan.search import search_plans

    prepare_environment()
    if config.json is not None:
        path = Path(config.json)
        if path.exists():
            raise UserError(f"json: {config.json} is there already; name another file")
        # Before minutes of compiling: a file can be made there.
        try:
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise UserError(f"json: {config.json}: cannot be written: {error.strerror}") from None

    def say(name: str) -> None:
        print_line(f"compiling: {name}", sys.stderr)

    plan = make_plan(config, say)
    print_plan(plan)
    found: dict[str, Any] = {"plan": plan.to_json()} if config.search else plan.to_json()
    if config.search:
        plans = search_plans(config, plan, say)
        print_search(plans)
        found["search"] = [one.to_json() for one in plans]
    if config.json is not None:
        write_atomically(Path(config.json), json.dumps(found, indent=1) + "\n")
