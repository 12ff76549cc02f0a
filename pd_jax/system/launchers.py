"""Launchers: which of them started this process among several, and whether they say all that joining the others takes.

JAX reads what Slurm, Open MPI and Cloud TPU say. What it reads is named here, so that a message can.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pd_jax.errors import UserError
from pd_jax.system.text import printable, show

_EXPLICIT = "--hosts.coordinator HOST:PORT, --hosts.num-processes {} and --hosts.process-id"
_ALONE = "--hosts.no-detect has each process run alone"


@dataclasses.dataclass(frozen=True)
class Launcher:
    """What a launcher says in the environment of each process.

    Attributes:
      name: of the launcher.
      size: the variable that says how many processes there are.
      rank: the one that says which of them this is.
      others: what JAX reads besides.
      joins: whether JAX joins its processes by these variables.
    """

    name: str
    size: str
    rank: str
    others: tuple[str, ...] = ()
    joins: bool = True

    def count(self, environment: Mapping[str, str]) -> int:
        """The processes that it started together; 1 where it started none, or one."""
        value = environment.get(self.size, "")
        return max(1, int(value)) if _is_number(value) else 1


# Slurm's batch script and a login shell have SLURM_NTASKS too; only a step of srun counts its own tasks.
SLURM = Launcher(
    "srun",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_PROCID",
    ("SLURM_NTASKS", "SLURM_LOCALID", "SLURM_JOB_ID", "SLURM_STEP_NODELIST"),
)
# Open MPI 5 no longer sets the last one.
OPEN_MPI = Launcher(
    "Open MPI",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_RANK",
    ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_MCA_orte_hnp_uri"),
)
_JOINING = (SLURM, OPEN_MPI)
_OTHERS = (
    Launcher("MPICH or Intel MPI", "PMI_SIZE", "PMI_RANK", joins=False),
    Launcher("MVAPICH", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", joins=False),
    Launcher("Flux", "FLUX_JOB_SIZE", "FLUX_TASK_RANK", joins=False),
    Launcher("jsrun", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_RANK", joins=False),
    Launcher("torchrun", "WORLD_SIZE", "RANK", joins=False),
)
_TPU_WORKERS = "TPU_WORKER_HOSTNAMES"
# All but a list of nodes and an address.
_NO_NUMBERS = ("SLURM_STEP_NODELIST", "OMPI_MCA_orte_hnp_uri")


def what_launched(environment: Mapping[str, str]) -> str | None:
    """The variable that says that this process is one of several, and its value; None where it is the only one.

    Only that of a launcher whose processes JAX joins counts.
    """
    for launcher in _JOINING:
        if launcher.count(environment) > 1:
            return f"{launcher.size}={environment[launcher.size]}"
    workers = environment.get(_TPU_WORKERS, "")
    return f"{_TPU_WORKERS}={printable(workers)}" if "," in workers else None


def cannot_join(environment: Mapping[str, str], problem: str) -> UserError:
    """What to say when JAX could not join processes that were not named by options.

    Args:
      environment: of the process.
      problem: in JAX's words, which name no variable.
    """
    said = what_launched(environment)
    if said is not None:
        problems = _problems(environment) or [f"JAX cannot join them ({problem})"]
        return UserError(
            f"hosts.detect: {said}: several processes were started together, and {', '.join(problems)}; "
            f"{_EXPLICIT.format('N')} make them one run, {_ALONE}"
        )
    more = ""
    if "KUBERNETES_SERVICE_HOST" in environment:
        more = "; in Kubernetes JAX asks by its own package (pip install 'jax[k8s]'), about an indexed Job or JobSet"
    return UserError(
        f"hosts.detect: true, and JAX does not find out who takes part ({problem}){more}; give "
        f"{_EXPLICIT.format('N')}, or leave it out"
    )


def _problems(environment: Mapping[str, str]) -> list[str]:
    """What is wrong with the variables of the launcher that started several processes."""
    launcher = next((launcher for launcher in _JOINING if launcher.count(environment) > 1), None)
    needed = () if launcher is None else (launcher.rank, *launcher.others)
    missing = [f"{name} is not set" for name in needed if name not in environment]
    numbers = [name for name in needed if name in environment and name not in _NO_NUMBERS]
    return missing + [
        f"{name} is {show(environment[name])}, not a number" for name in numbers if not _is_number(environment[name])
    ]


def hint_of_others(environment: Mapping[str, str]) -> str | None:
    """A line about processes that a launcher started together and that JAX does not join; None where there are none."""
    for launcher in _OTHERS:
        if (count := launcher.count(environment)) > 1:
            return (
                f"{launcher.size}={count}: {launcher.name} started {count} processes, and each runs alone "
                f"(--hosts.no-detect: without this line); {_EXPLICIT.format(count)} ${launcher.rank} make them one run"
            )
    return None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10
