"""The commands of ``pd-jax``: what each is about, and which settings it takes.

`pd_jax.commands` has what runs them. Settings are imported only once somebody asks for them: the list of commands, and
what is wrong with the name of one, needs none.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pd_jax.config.base import Settings


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
      about: what it does, in the words of ``--help``.
      settings_name: module (of this package) and class of its settings.
      computes: whether it plays or learns for long: what JAX compiles is kept for the next time.
      resumes: whether one that computes can be gone on with after it was stopped.
    """

    about: str
    settings_name: str
    computes: bool = True
    resumes: bool = True

    @property
    def settings(self) -> type[Settings]:
        """The class of its settings."""
        module, _, name = self.settings_name.partition(".")
        found: type[Settings] = getattr(importlib.import_module(f"pd_jax.config.{module}"), name)
        return found


@dataclasses.dataclass(frozen=True)
class CommandGroup:
    """A command that has commands of its own.

    Attributes:
      about: as for `Command`.
      commands: its own, by name.
      default: the one that is meant where none is named.
    """

    about: str
    commands: Mapping[str, Command]
    default: str


TEACHERS = CommandGroup(
    "list the bundled teachers, show one, import others",
    MappingProxyType(
        {
            "list": Command("list the bundled teachers (the default)", "teachers.ListTeachersConfig", computes=False),
            "show": Command(
                "show what a teacher's file says, its learning curve and its action gaps",
                "teachers.ShowTeacherConfig",
                computes=False,
            ),
            "import": Command(
                "convert another library's agent into a teacher file", "teachers.ImportTeacherConfig", computes=False
            ),
        }
    ),
    default="list",
)
MONITOR = CommandGroup(
    "watch a policy at work, and raise an alarm when its play changes",
    MappingProxyType(
        {
            "fit": Command("work out thresholds from healthy play", "monitor.FitMonitorConfig", resumes=False),
            "watch": Command(
                "compare play with thresholds (the default); exit code 3 after an alarm",
                "monitor.WatchMonitorConfig",
                resumes=False,
            ),
        }
    ),
    default="watch",
)
TABLE: Mapping[str, Command | CommandGroup] = MappingProxyType(
    {
        "train-teacher": Command("train a teacher with PQN or DQN", "train_teacher.TrainTeacherConfig"),
        "collect": Command("record a teacher's play as a data set", "collect.CollectConfig"),
        "distill": Command("distil teachers into a student, from live or recorded play", "distill.DistillConfig"),
        "online": Command("distil a teacher into a student while the teacher is still learning", "online.OnlineConfig"),
        "sweep": Command("distil a grid of students, and compare them in one table", "sweep.SweepConfig"),
        "evaluate": Command("score a teacher, a run's student, or one against the other", "evaluate.EvaluateConfig"),
        "export": Command(
            "write a policy as files that run without JAX, and prove that they are it",
            "export.ExportConfig",
            resumes=False,
        ),
        "audit": Command(
            "find out what a student has inherited from its teacher, and leave a page and a policy card",
            "audit.AuditConfig",
            resumes=False,
        ),
        "video": Command(
            "show teacher and student side by side on the same start, as MP4 and GIF",
            "video.VideoConfig",
            resumes=False,
        ),
        "monitor": MONITOR,
        "renew": Command(
            "distil an exported student anew from its own weights, and replace the export if that is not worse",
            "renew.RenewConfig",
        ),
        "lineage": Command(
            "show what a run, a recording or an export came from, and verify each file of it",
            "lineage.LineageConfig",
            computes=False,
        ),
        "plan": Command(
            "say what a distillation takes, and how fast it can be, on devices that need not be there",
            "plan.PlanConfig",
            computes=False,
        ),
        "explain": Command(
            "say in plain words what a run has done, how good it is and what to try next",
            "explain.ExplainConfig",
            computes=False,
        ),
        "push": Command(
            "publish a run's student on the Hugging Face Hub, with a model card; shown first, sent by --send",
            "push.PushConfig",
            computes=False,
        ),
        "report": Command("put the results of runs into the paper's tables", "report.ReportConfig", computes=False),
        "teachers": TEACHERS,
        "configs": Command(
            "list the settings files that come with pd-jax, print one, or copy it",
            "configs.ConfigsConfig",
            computes=False,
        ),
        "doctor": Command(
            "say what is installed, which devices there are, what is wrong and what to do",
            "doctor.DoctorConfig",
            computes=False,
        ),
        "completion": Command(
            "print what has bash, zsh or fish complete commands, options and names",
            "completion.CompletionConfig",
            computes=False,
        ),
    }
)
"""Every command, by its name on the command line."""


class _SettingsByCommand(Mapping[str, "type[Settings]"]):
    def __getitem__(self, name: str) -> type[Settings]:
        command = TABLE[name]
        if isinstance(command, CommandGroup):
            raise KeyError(name)
        return command.settings

    def __iter__(self) -> Iterator[str]:
        return (name for name, command in TABLE.items() if isinstance(command, Command))

    def __len__(self) -> int:
        return len(list(iter(self)))


COMMANDS: Mapping[str, type[Settings]] = _SettingsByCommand()
"""The class of each command's settings, by its name on the command line; groups have none."""
