"""Is a new teacher better than the bundled one of its game, and does it take its place?

    python -m benchmarks.studies.bundle runs/train-qbert/teacher.safetensors

Both play whole games from the same starts, which chose the weights of neither: the new one with its weights rounded to
float16, as they would be stored. It is bundled if its game has no teacher yet, or if it is better by more than the
standard error of the difference. The exit code is 1 if it is no better, and 2 where something is refused. The file then
tells this score. Where its training went on from the bundled weights, steps and learning curve go on from theirs. A
bundle over its size is refused, before anything is played.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pd_jax.config.evaluate import EvaluateConfig
from pd_jax.config.sections import EvaluationConfig
from pd_jax.errors import UserError
from pd_jax.evaluation.games import heeding, play_games
from pd_jax.evaluation.protocol import Protocol
from pd_jax.evaluation.scores import Score
from pd_jax.system.computing import computing
from pd_jax.system.interrupts import Interrupts
from pd_jax.system.progress import Progress
from pd_jax.teachers import Teacher, load
from pd_jax.teachers.catalogue import bundled_files
from pd_jax.teachers.files import read_teacher, save_teacher
from pd_jax.teachers.metadata import TeacherMetadata

LIMIT_BYTES = 60_000_000
"""Of all bundled teachers together."""
_FRESH = 7_000_000
_TOLD = ("epsilon", "max_noops", "max_episode_steps", "seed")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A new teacher's score beside that of the bundled one, None where there is none."""

    new: Score
    old: Score | None

    @property
    def difference(self) -> tuple[float, float]:
        """Between the means, and its standard error."""
        assert self.old is not None
        errors = (self.new.standard_error or 0.0, self.old.standard_error or 0.0)
        return self.new.mean - self.old.mean, math.hypot(*errors)

    @property
    def is_better(self) -> bool:
        """Whether the new one takes the place."""
        if self.old is None:
            return True
        difference, error = self.difference
        return difference > error


def main(argv: Sequence[str] | None = None) -> int:
    """Compares, prints, and bundles what is better; 2 where something is refused, 1 where it is no better."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a teacher that pd-jax train-teacher left")
    parser.add_argument("--episodes", type=_count, default=100, help="whole games of each (default: 100)")
    parser.add_argument("--lanes", type=_count, default=20, help="games side by side (default: 20)")
    parser.add_argument(
        "--zoo", type=Path, default=next(iter(bundled_files().values())).parent, help="directory of the bundle"
    )
    parser.add_argument("--dry-run", action="store_true", help="only compare")
    options = parser.parse_args(argv)
    try:
        return bundle(options)
    except UserError as error:
        print(f"bundle: {error}", file=sys.stderr)
        return 2


def _count(text: str) -> int:
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"{value} say nothing of a standard error; at least 2")
    return value


@computing()
def bundle(options: argparse.Namespace) -> int:
    """What `main` does, with parsed options; raises a UserError where something is refused."""
    if not options.zoo.is_dir():
        raise UserError(f"{options.zoo}: no such directory")
    params, metadata = read_teacher(options.file)
    if metadata.games or metadata.source_format or metadata.observation["kind"] != "atari":
        raise UserError(f"{options.file}: is not a teacher of one Atari game that was trained here")
    place = options.zoo / f"{metadata.game}.safetensors"
    with tempfile.TemporaryDirectory() as directory:
        stored = Path(directory) / place.name
        save_teacher(stored, params, metadata, dtype="float16")
        check_size(stored, place)
        old = load(place) if place.exists() else None
        new_score, protocol = _score(load(stored), options)
        comparison = Comparison(new_score, None if old is None else _score(old, options)[0])
    _print(metadata, comparison)
    if options.dry_run or not comparison.is_better:
        return 0 if comparison.is_better else 1
    told = {name: protocol[name] for name in _TOLD}
    metadata = dataclasses.replace(metadata, evaluation={**new_score.to_json(), **told})
    if old is not None:
        metadata = continued(metadata, old.metadata)
    save_teacher(place, params, metadata, dtype="float16")
    print(f"{place.name}: {place.stat().st_size:,} bytes; python -m benchmarks.studies.learning_curves draws it")
    return 0


def check_size(new: Path, place: Path) -> None:
    """Raises a UserError where the bundle would grow over its size with a file in a place of it."""
    others = sum(path.stat().st_size for path in place.parent.glob("*.safetensors") if path.name != place.name)
    total = others + new.stat().st_size
    if total > LIMIT_BYTES:
        raise UserError(
            f"{place.name}: the bundle would have {total:,} bytes, and {LIMIT_BYTES:,} are allowed; store a smaller "
            "network"
        )


def continued(metadata: TeacherMetadata, before: TeacherMetadata) -> TeacherMetadata:
    """The metadata of a training that went on from a bundled teacher: with the steps and the curve before it."""
    if metadata.training_config.get("init_from") != before.game:
        return metadata
    steps = before.env_steps or 0
    later = [{**point, "env_steps": point["env_steps"] + steps} for point in metadata.learning_curve]
    return dataclasses.replace(
        metadata,
        env_steps=(metadata.env_steps or 0) + steps,
        learning_curve=[*before.learning_curve, *later],
        how_made=f"{before.how_made}; then {metadata.how_made}, from those weights, over "
        f"{metadata.env_steps or 0:,} steps more: training_config holds the settings of these",
    )


def _score(teacher: Teacher, options: argparse.Namespace) -> tuple[Score, Mapping[str, Any]]:
    evaluation = EvaluationConfig(episodes=options.episodes, num_lanes=options.lanes, seed_offset=_FRESH)
    settings = EvaluateConfig(teacher=teacher.source, evaluation=evaluation)
    protocol = Protocol.of(settings, teacher.task)
    with Interrupts() as interrupts, Progress(f"evaluate {teacher.metadata.name}") as progress:
        on_progress = heeding(interrupts, progress.add("games", protocol.episodes))
        played = play_games(teacher.network.apply, teacher.variables, teacher.task, protocol, on_progress=on_progress)
    return Score.of(played.returns), protocol.to_json()


def _print(metadata: TeacherMetadata, comparison: Comparison) -> None:
    new = comparison.new
    print(f"{metadata.game}: new {new.mean:,.2f} ± {new.standard_error or 0:,.2f} over {new.episodes} games", end="")
    if comparison.old is None:
        print("; there is none")
        return
    difference, error = comparison.difference
    old = comparison.old
    verdict = "better" if comparison.is_better else "no better"
    print(f"; bundled {old.mean:,.2f} ± {old.standard_error or 0:,.2f}: {verdict}, {difference:+,.2f} ± {error:,.2f}")


if __name__ == "__main__":
    sys.exit(main())
