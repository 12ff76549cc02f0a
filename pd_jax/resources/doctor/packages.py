"""Which packages pd-jax asks for, which are there, and what those that are optional are for; nothing is imported."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

from pd_jax.resources.doctor.findings import Finding

DISTRIBUTION = "pd-jax"
_REQUIREMENT = re.compile(r"([A-Za-z0-9][\w.-]*)(?:\[([\w,.-]+)\])?\s*(?:>=\s*([\w.]+))?[^;]*(?:;\s*(.*))?")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w.-]+)['\"]")
_MODULES = {
    "pillow": "PIL",
    "pyyaml": "yaml",
    "orbax-checkpoint": "orbax.checkpoint",
    "scipy": "scipy.stats",
    "ml-dtypes": "ml_dtypes",
}
"""Modules by package, where the name is another, or where what is used is a part of it."""
UNLOCKS = {
    "cuda": "GPUs",
    "tpu": "TPUs",
    "plan-cuda": "plan for GPUs that are not there",
    "plan-tpu": "plan for TPUs that are not there",
    "sb3": "teachers from PyTorch files, such as those of Stable-Baselines3",
    "hub": "teachers from the Hugging Face Hub",
    "ale": "env.backend: ale, another build of Atari's emulator",
    "export": "export to ONNX and StableHLO, and running it",
    "minari": "recorded play of others, as Minari keeps it",
    "monitor": "monitor's test of Page and Hinkley",
    "video": "MP4 files of play",
    "trackio": "tracking runs with Trackio",
    "wandb": "tracking runs with Weights & Biases",
    "docs": "the site of the documents",
    "test": "the tests",
}
"""What becomes possible with each extra."""


@dataclasses.dataclass(frozen=True)
class Requirement:
    """One package.

    Attributes:
      name: normalised, such as ``orbax-checkpoint``.
      extras: of that package.
      least: the oldest version that will do; empty for any.
      extra: of pd-jax, for which it is needed; empty if it always is.
    """

    name: str
    extras: tuple[str, ...]
    least: str
    extra: str

    @property
    def module(self) -> str:
        """What is imported of it."""
        return _MODULES.get(self.name, self.name.replace("-", "_"))

    @property
    def installed(self) -> str | None:
        """The version that is there."""
        return version_of(self.name)

    @property
    def is_met(self) -> bool:
        """Whether it is there, and new enough. Of what other packages it asks for, such as CUDA's, some is there."""
        there = self.installed
        return there is not None and _numbers(there) >= _numbers(self.least) and all(map(self._has, self.extras))

    def _has(self, extra: str) -> bool:
        wanted = [their for their in requirements(self.name) if their.extra == extra]
        return all(version_of(their.name) is not None for their in wanted)


def version_of(name: str) -> str | None:
    """The version of a package that is installed; None if it is not, or says nothing of itself."""
    try:
        return importlib.metadata.version(name)
    except (importlib.metadata.PackageNotFoundError, KeyError, OSError, UnicodeDecodeError):
        return None


def requirements(name: str = DISTRIBUTION) -> list[Requirement]:
    """What a package asks for. A clone of ours that was not installed has it in its ``pyproject.toml``."""
    try:
        texts = importlib.metadata.requires(name) or []
    except (importlib.metadata.PackageNotFoundError, OSError, UnicodeDecodeError):
        texts = list(_of_clone()) if name == DISTRIBUTION else []
    return [found for text in texts if (found := parse(text)) is not None]


def parse(text: str) -> Requirement | None:
    """One line such as ``jax[cuda13]>=0.10.0; extra == 'cuda'``; None if it can make no sense of it."""
    match = _REQUIREMENT.fullmatch(text.strip())
    if match is None:
        return None
    name, extras, least, condition = match.groups(default="")
    extra = _EXTRA.search(condition)
    named = tuple(filter(None, extras.split(",")))
    return Requirement(re.sub(r"[-_.]+", "-", name).lower(), named, least, extra[1] if extra else "")


def _of_clone() -> Iterator[str]:
    try:
        project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except (OSError, KeyError, ValueError):
        return
    yield from project["dependencies"]
    for extra, texts in project["optional-dependencies"].items():
        yield from (f"{text}; extra == '{extra}'" for text in texts)


def _numbers(version: str) -> tuple[int, ...]:
    """For comparing: of ``0.10.2`` and ``1.0rc1`` the numbers up to what is none."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def check_packages() -> Finding:
    """Whether all that is always needed is there, and new enough."""
    needed = [its for its in requirements() if not its.extra]
    facts = {its.name: its.installed for its in needed}
    install = f"pip install --upgrade {DISTRIBUTION}, with -c requirements.lock for the versions that were tested"
    if not needed:
        return Finding("packages", "warning", "pd-jax does not say which it needs: it is not installed", install, facts)
    missing = [its.name for its in needed if its.installed is None]
    old = [f"{its.name} {its.installed} (at least {its.least})" for its in needed if its.installed and not its.is_met]
    if missing or old:
        texts = [f"not there: {', '.join(missing)}"] * bool(missing) + [f"too old: {', '.join(old)}"] * bool(old)
        return Finding("packages", "broken", "; ".join(texts), install, facts)
    shown = ("jax", "jaxlib", "flax", "optax", "envpool", "orbax-checkpoint", "numpy")
    facts |= {name: version_of(name) for name in shown}
    return Finding("packages", "ok", ", ".join(f"{name} {facts[name]}" for name in shown), facts=facts)


def check_plugins() -> Finding | None:
    """Whether JAX's parts are of one version: with a plugin of another, JAX leaves the device out, or crashes."""
    jax, jaxlib = version_of("jax"), version_of("jaxlib")
    if jax is None or jaxlib is None:
        return None
    names = [f"jax-cuda{number}-{part}" for number in (12, 13) for part in ("plugin", "pjrt")]
    plugins = {name: version for name in names if (version := version_of(name)) is not None}
    facts: Mapping[str, str] = {"jax": jax, "jaxlib": jaxlib} | plugins
    others = [f"{name} {version}" for name, version in facts.items() if _numbers(version)[:3] != _numbers(jax)[:3]]
    libtpu = version_of("libtpu")
    told = ", ".join(
        [*(f"{name} {version}" for name, version in facts.items()), *([f"libtpu {libtpu}"] * bool(libtpu))]
    )
    facts = {**facts, **({"libtpu": libtpu} if libtpu else {})}
    if others:
        which = {name.split("-")[1] for name in plugins}
        extra = "[cuda]" if which else ""
        return Finding(
            "jax",
            "warning",
            f"jax {jax} beside {', '.join(others)}: they are made to be of one version",
            f"pip install --upgrade 'pd-jax{extra}' -c requirements.lock",
            facts,
        )
    return Finding("jax", "ok", told, facts=facts)


def check_extras() -> Finding:
    """Which extras are there, and what the others would make possible."""
    by_extra: dict[str, list[Requirement]] = {}
    for its in requirements():
        if its.extra:
            by_extra.setdefault(its.extra, []).append(its)
    there: list[str] = []
    missing: list[str] = []
    for extra, wanted in sorted(by_extra.items()):
        # Of ourselves: what stands for other extras.
        (there if all(one.is_met for one in wanted if one.name != DISTRIBUTION) else missing).append(extra)
    texts = [f"there: {', '.join(there) or 'none'}"]
    if missing:
        texts.append("not there, and what they are for (pip install 'pd-jax[NAME]'):")
        width = max(map(len, missing))
        texts += [f"  {extra:<{width}}  {UNLOCKS.get(extra, '')}".rstrip() for extra in missing]
    return Finding("extras", "note", "\n".join(texts), facts={"there": there, "missing": missing})
