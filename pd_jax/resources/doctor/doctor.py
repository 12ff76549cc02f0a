"""All checks, one after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pd_jax.resources.doctor import packages, surroundings
from pd_jax.resources.doctor.children import Told, ask
from pd_jax.resources.doctor.findings import Diagnosis, Finding
from pd_jax.resources.doctor.probes import describe
from pd_jax.system import accelerators
from pd_jax.version import __version__

_GIB = 2**30


def examine(*, out: str, timeout: float, say: Callable[[str], None] = lambda _: None) -> Diagnosis:
    """Looks at everything.

    Args:
      out: where runs are to be written.
      timeout: seconds for each check that another package, or a device, could keep waiting.
      say: is told what is looked at.
    """
    environment = os.environ
    checks: Sequence[tuple[str, Callable[[], Finding | None]]] = (
        ("python", surroundings.check_python),
        ("packages", packages.check_packages),
        ("jax", packages.check_plugins),
        ("imports", lambda: _check_imports(timeout)),
        ("devices", lambda: _check_devices(timeout)),
        ("envpool", lambda: _check_envpool(timeout)),
        ("cores", lambda: surroundings.check_cores(environment)),
        ("memory", surroundings.check_memory),
        ("cache", lambda: surroundings.check_cache(environment)),
        ("out", lambda: surroundings.check_out(out)),
        ("variables", lambda: surroundings.check_variables(environment)),
        ("extras", packages.check_extras),
    )
    return Diagnosis(__version__, list(_findings(checks, say)))


_RESTS_ON = {"envpool": "devices"}
"""Checks that say nothing of their own where another has failed."""


def _findings(
    checks: Sequence[tuple[str, Callable[[], Finding | None]]], say: Callable[[str], None]
) -> Iterator[Finding]:
    broken: set[str] = set()
    for about, check in checks:
        say(about)
        if _RESTS_ON.get(about) in broken:
            yield Finding(about, "note", f"not tried: it rests on {_RESTS_ON[about]}")
            continue
        try:
            found = check()
        except Exception as error:
            # Of a machine that is like none that we know: the other checks are done all the same.
            found = Finding(about, "warning", f"could not be looked at: {describe(error)}", "tell us of it")
        if found is not None:
            broken |= {about} if found.status == "broken" else set()
            yield found


def _check_imports(timeout: float) -> Finding:
    """Whether each package can be imported that is always needed."""
    wanted = [its.module for its in packages.requirements() if not its.extra and its.installed is not None]
    faults: dict[str, str] = {}
    left = list(wanted)
    while left:
        told = ask("imports", *left, timeout=timeout)
        begun = [line["begins"] for line in told.lines if "begins" in line]
        faults |= {line["module"]: line["error"] for line in told.lines if line.get("error")}
        if not told.failure:
            break
        if not begun:
            return Finding("imports", "broken", f"Python does not start: {told.failure}", "install Python anew")
        # It ended in the middle of one: the others are imported without it.
        faults.setdefault(begun[-1], told.failure)
        left = left[len(begun) :]
    facts = {"modules": wanted, "faults": faults}
    if faults:
        says = "; ".join(f"{name}: {fault}" for name, fault in faults.items())
        names = " ".join(sorted({_package_of(name) for name in faults}))
        remedy = f"pip install --force-reinstall -c requirements.lock {names}; or install pd-jax in a new environment"
        return Finding("imports", "broken", says, remedy, facts)
    return Finding("imports", "ok", f"all {len(wanted)} can be imported", facts=facts)


def _package_of(module: str) -> str:
    return next((its.name for its in packages.requirements() if its.module == module), module)


def _check_devices(timeout: float) -> Finding:
    """Which there are, and whether they compute."""
    told = ask("devices", timeout=timeout)
    kinds: list[str] | None = told.get("kinds")
    facts: dict[str, Any] = {name: told.get(name) for name in ("platform", "kinds", "limits", "computes")}
    if kinds is None or told.failure:
        return Finding("devices", "broken", f"JAX: {told.failure}", _remedy_for_devices(told), facts)
    if not told.get("computes"):
        says = f"{_count(kinds)}: a product of matrices comes out wrong"
        return Finding("devices", "broken", says, "set JAX_PLATFORMS=cpu, and have the device looked at", facts)
    limits = [limit for limit in told.get("limits") or () if limit]
    says = f"{told.get('platform')}: {_count(kinds)}" + (f", {sum(limits) / _GIB:,.1f} GiB in all" if limits else "")
    if told.get("platform") == "cpu":
        unused = [
            (name, extra)
            for name, extra, files in (("GPU", "cuda", accelerators.GPU_FILES), ("TPU", "tpu", accelerators.TPU_FILES))
            if accelerators.is_there(files) and os.environ.get("JAX_PLATFORMS", "") != "cpu"
        ]
        for name, extra in unused:
            remedy = f"pip install 'pd-jax[{extra}]'"
            return Finding("devices", "warning", f"{says}; there is a {name}, and JAX does not use it", remedy, facts)
    return Finding("devices", "ok", says, facts=facts)


def _remedy_for_devices(told: Told) -> str:
    if "no answer" in told.failure:
        return "another process may hold the device: end it; or set JAX_PLATFORMS=cpu"
    if "XLA_FLAGS" in told.failure:
        return "unset XLA_FLAGS"
    wanted = os.environ.get("JAX_PLATFORMS", "")
    if wanted not in ("", "cpu"):
        return f"JAX_PLATFORMS asks for {wanted}: install pd-jax[cuda] or pd-jax[tpu], or unset it"
    return "install JAX anew: pip install --force-reinstall -c requirements.lock jax jaxlib"


def _count(kinds: Sequence[str]) -> str:
    return ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))


def _check_envpool(timeout: float) -> Finding:
    """Whether Pong is played, inside a compiled program as from the host."""
    told = ask("envpool", timeout=timeout)
    facts = {name: told.get(name) for name in ("steps", "in_jit")}
    reinstall = "pip install --force-reinstall -c requirements.lock envpool"
    if told.get("steps") is None:
        return Finding("envpool", "broken", f"Pong is not played: {told.failure}", reinstall, facts)
    remedy = "--env.stepping host does without, and so does ale-py; " + reinstall
    if told.failure:
        says = f"plays Pong from the host; inside a compiled program: {told.failure}"
        return Finding("envpool", "warning", says, remedy, facts)
    if told.get("in_jit") is None:
        return Finding("envpool", "ok", "plays Pong from the host, as it does beside this device", facts=facts)
    if not told.get("in_jit"):
        return Finding("envpool", "warning", "inside a compiled program Pong shows other frames", remedy, facts)
    return Finding(
        "envpool", "ok", "plays Pong inside a compiled program, frame by frame as from the host", facts=facts
    )
