"""What has to import other packages, in a process of its own: it may crash, hang or end the process.

``python -c "from pd_jax.resources.doctor.probes import main; main()" NAME`` writes lines that begin with `MARK`, each
with JSON, as it goes; so whoever started it knows how far it came. Whatever else stands on stdout is a library's.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

MARK = "@pd-jax@ "
_STEPS, _LANES = 16, 2


def tell(**facts: Any) -> None:
    """Writes a line."""
    print(MARK + json.dumps(facts), flush=True)


def probe_imports(*modules: str) -> None:
    """Imports modules, one by one."""
    for name in modules:
        tell(begins=name)
        try:
            importlib.import_module(name)
        except Exception as error:
            tell(module=name, error=describe(error))
        else:
            tell(module=name, error=None)


def probe_devices() -> None:
    """Which devices JAX has, and whether the first one computes."""
    import jax
    import numpy as np

    devices = jax.devices()
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    kinds = [device.device_kind for device in devices]
    tell(platform=devices[0].platform, kinds=kinds, limits=limits, processes=jax.process_count())
    # Whole numbers, whose sums are exact on any device.
    given = np.arange(64 * 64, dtype=np.float32).reshape(64, 64) % 7
    computed = np.asarray(jax.jit(lambda array: array @ array)(given))
    tell(computes=bool((computed == given @ given).all()))


def probe_envpool() -> None:
    """Whether EnvPool steps Pong inside a compiled program as it does from the host."""
    import jax
    import numpy as np

    from pd_jax.environments.envpool import Environment
    from pd_jax.environments.tasks import get_task
    from pd_jax.system.computing import computing

    with computing():
        task = get_task("pong")
        actions = np.random.default_rng(0).integers(0, task.num_actions, (_STEPS, _LANES)).astype(np.int32)
        on_host = Environment(task, _LANES, 0, stepping="host")
        _, shown = on_host.reset()
        steps = []
        for chosen in actions:
            shown = on_host.step_host(chosen, np.asarray(shown.is_last))
            steps.append(np.asarray(shown.observations))
        on_host.close()
        tell(steps=_STEPS, varies=bool(np.std(np.stack(steps)) > 0))
        if jax.devices()[0].platform not in ("cpu", "gpu"):
            # EnvPool has no such step there, and runs step it from the host.
            return
        in_jit = Environment(task, _LANES, 0, stepping="jit")
        handle, timestep = in_jit.reset()

        def step(carry: Any, chosen: Any) -> Any:
            handle, timestep = in_jit.step(carry[0], chosen, carry[1])
            return (handle, timestep), timestep.observations

        played = jax.jit(lambda carry, chosen: jax.lax.scan(step, carry, chosen)[1])((handle, timestep), actions)
        tell(in_jit=bool((np.asarray(played) == np.stack(steps)).all()))


def describe(error: BaseException) -> str:
    """An error in one line of at most 300 characters."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__


def main() -> None:
    """Runs the probe that the command line names, and tells of what it raises."""
    name, *rest = sys.argv[1:]
    probes = {"imports": probe_imports, "devices": probe_devices, "envpool": probe_envpool}
    try:
        probes[name](*rest)
    except BaseException as error:
        tell(raised=describe(error))
        raise SystemExit(1) from None
    tell(ended=True)
