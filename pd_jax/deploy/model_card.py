"""The model card of a student on the Hugging Face Hub: metadata that the hub reads, and text for people."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import yaml

from pd_jax.environments.protocols import PROTOCOLS
from pd_jax.environments.tasks import Task
from pd_jax.evaluation.protocol import Protocol
from pd_jax.evaluation.scores import Score
from pd_jax.evaluation.statistics import percent_of_teacher
from pd_jax.system.text import format_seconds
from pd_jax.version import __version__

LIBRARY = "pd-jax"
_TAGS = ("deep-reinforcement-learning", "reinforcement-learning", "policy-distillation", "jax", "flax", "safetensors")
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|~])")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaughtBy:
    """A teacher, as far as it is known by now.

    Attributes:
      name: of the teacher, or of its file.
      sha256: of its file, or of a student's parameters.
      network, algorithm, env_steps: of it and of its training; None where its file is not at hand.
      source: where it came from: a bundled name, a repository of the hub, a file; in words.
      how_made: in its own words.
      licence: likewise.
      repository: of the hub that it is in, ``owner/name``; None if it is in none.
    """

    name: str
    sha256: str
    source: str
    network: str | None = None
    algorithm: str | None = None
    env_steps: int | None = None
    how_made: str = ""
    licence: str | None = None
    repository: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlayedGame:
    """One of a student's games.

    Attributes:
      task: the game.
      student, teacher: their scores; None if one did not play.
      protocol: of both.
      env_steps: control steps of play that the student learnt from; 0 where that was not counted.
      temperature: that the teacher's outputs were divided by; None of losses that have none.
      taught_by: the teacher.
    """

    task: Task
    student: Score | None
    teacher: Score | None
    protocol: Protocol
    env_steps: int
    temperature: float | None
    taught_by: TaughtBy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """All that a model card says.

    Attributes:
      repository: ``owner/name``.
      run_name: of the run.
      command: that made it, ``distill`` or ``online``.
      network: of the student.
      parameters: it has.
      teacher_parameters: of all teachers together; None where they are not known.
      loss, behaviour: as settings have them.
      gives_logits: whether the outputs are a policy's logits instead of Q-values.
      updates: minibatches that it learnt from.
      wall_seconds: that took.
      seed: of the run.
      games: in the order of its heads.
      licence: an identifier of the hub's.
      licence_words: what its teachers' files say.
      has_video: whether there is a ``replay.mp4``.
      parameters_sha256: of the weights.
    """

    repository: str
    run_name: str
    command: str
    network: str
    parameters: int
    teacher_parameters: int | None
    loss: str
    behaviour: str
    gives_logits: bool
    updates: int
    wall_seconds: float
    seed: int
    games: tuple[PlayedGame, ...]
    licence: str
    licence_words: tuple[str, ...]
    has_video: bool
    parameters_sha256: str

    @property
    def address(self) -> str:
        """By which it is loaded."""
        return f"hf://{self.repository}"

    @property
    def names(self) -> str:
        """Of the games."""
        return ", ".join(game.task.name for game in self.games)


def card_metadata(card: Card) -> dict[str, Any]:
    """The YAML at a card's head, as the hub's pages of reinforcement learning have it."""
    results = [
        {
            "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
            "dataset": {"name": game.task.env_id, "type": game.task.env_id},
            "metrics": [
                {"type": "mean_reward", "value": mean_and_deviation(game.student), "name": "mean_reward"}
                | {"verified": False}
            ],
        }
        for game in card.games
        if game.student is not None
    ]
    bases = dict.fromkeys(game.taught_by.repository for game in card.games if game.taught_by.repository)
    ids = dict.fromkeys(game.task.env_id for game in card.games)
    name = card.repository.split("/")[1]
    kinds = ["atari"] if any(game.task.kind == "atari" for game in card.games) else []
    return {
        "license": card.licence,
        "library_name": LIBRARY,
        "pipeline_tag": "reinforcement-learning",
        "tags": [*ids, *_TAGS, *kinds],
        **({"base_model": [*bases] if len(bases) > 1 else next(iter(bases))} if bases else {}),
        # Without scores there is none: the hub takes no model without results.
        **({"model-index": [{"name": f"{card.network}-{name}", "results": results}]} if results else {}),
    }


def mean_and_deviation(score: Score) -> str:
    """Such as ``15.50 +/- 3.22``: the mean and the standard deviation of the games; of one game that is 0."""
    spread = 0.0 if score.standard_error is None else score.standard_error * math.sqrt(score.episodes)
    return f"{score.mean:.2f} +/- {spread:.2f}"


def card_text(card: Card) -> str:
    """The whole README.md."""
    head = yaml.safe_dump(card_metadata(card), sort_keys=False, allow_unicode=True, width=1000)
    several = len(card.games) > 1
    sections = [
        f"# {escape(card.network)} that plays {escape(card.names)}",
        _opening(card),
        "## Scores",
        _scores(card),
        *(["`replay.mp4` shows it at play, beside its teacher."] if card.has_video else []),
        "## How it was scored",
        *[_protocol(game, several) for game in card.games],
        "## How to use it",
        _usage(card),
        "## Where it comes from",
        *[_teacher(game) for game in card.games],
        _making(card),
        "## Limits",
        _limits(card),
        "## Licence",
        _licence(card),
    ]
    return f"---\n{head}---\n\n" + "\n\n".join(sections) + "\n"


def _opening(card: Card) -> str:
    smaller = ""
    if card.teacher_parameters:
        ratio = card.teacher_parameters / card.parameters
        whose = "its teacher" if len(card.games) == 1 else "its teachers together"
        smaller = f", {ratio:.1f} times fewer than {whose}" if ratio > 1 else f"; {whose}: {card.teacher_parameters:,}"
    what = "while its teacher was still learning" if card.command == "online" else "from its teacher's outputs alone"
    return (
        f"A student of {card.parameters:,} parameters{smaller}. It was made by policy distillation "
        f"([Rusu et al., ICLR 2016](https://arxiv.org/abs/1511.06295)) with pd_jax {__version__}: it has seen no "
        f"rewards, and learnt {what}."
    )


def _scores(card: Card) -> str:
    rows = [
        "| game | student | 95 % interval | teacher | 95 % interval | of the teacher | above random | games |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for game in card.games:
        percent = above = None
        if game.student is not None and game.teacher is not None:
            percent = percent_of_teacher(game.student.mean, game.teacher.mean, 0.0)
            if game.task.random_score is not None:
                above = percent_of_teacher(game.student.mean, game.teacher.mean, game.task.random_score)
        cells = [game.task.name, *_score_cells(game.student), *_score_cells(game.teacher), _percent(percent)]
        cells += [_percent(above), "–" if game.student is None else f"{game.student.episodes:,}"]
        rows.append(f"| {' | '.join(map(escape, cells))} |")
    return "\n".join(rows) + (
        "\n\nScores are mean returns of whole games, unclipped; ± is one standard error of the mean. Student and "
        "teacher play from the same starts. Above random: 0 % is as bad as random actions, 100 % as good as the "
        "teacher."
    )


def _score_cells(score: Score | None) -> tuple[str, str]:
    if score is None:
        return "–", "–"
    error = "" if score.standard_error is None else f" ± {score.standard_error:.1f}"
    interval = "–" if score.low is None or score.high is None else f"{score.low:.1f} to {score.high:.1f}"
    return f"{score.mean:.1f}{error}", interval


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} %"


def _protocol(game: PlayedGame, several: bool) -> str:
    rules, task = game.protocol, game.task
    begin = f"- {escape(task.name)}: " if several else ""
    parts = [f"EnvPool's `{task.env_id}`"]
    if task.kind == "atari":
        named = f"protocol `{rules.name}`" + (
            "" if rules.name in PROTOCOLS else ", which is neither of the two by name"
        )
        noops = f"up to {rules.max_noops} no-ops at the start" if rules.max_noops > 1 else "no random no-ops"
        sticky = rules.sticky_action_probability
        parts += [named, noops, f"sticky actions ({sticky:g})" if sticky else "no sticky actions"]
        parts += ["FIRE at the start where a game has it" if rules.fire_reset else "no FIRE at the start"]
        parts += ["actions of the game's minimal set", "an episode ends when the game is over, not with a life"]
    parts += [f"a random action with probability {rules.epsilon:g}"]
    parts += [f"episodes of at most {rules.max_episode_steps:,} control steps", f"seed {rules.seed}"]
    return f"{begin}{'; '.join(parts)}."


def _usage(card: Card) -> str:
    first = card.games[0].task
    several = len(card.games) > 1
    game = f" --game {first.name}" if several else ""
    teacher = f" --game {first.name}" if several else ""
    shape = "(8, 84, 84, 4), np.uint8" if first.kind == "atari" else f"{(8, *first.observation_shape)}, np.float32"
    choose = f', game="{first.name}"' if several else ""
    seen = "frames 84x84, grey, the last four, oldest first" if first.kind == "atari" else "observations"
    return f"""With pd_jax and its extra `hub`:

```bash
pd-jax evaluate --run {card.address}{game}
pd-jax export --run {card.address}{game} --out exports/{card.repository.split("/")[1]}
pd-jax distill --teacher {card.address}{teacher} --student.network {card.network} --out runs/next
```

```python
import numpy as np
import pd_jax

student = pd_jax.load_student("{card.address}"{choose})
actions, _ = student.act(np.zeros({shape}))  # eight {seen}
teacher = pd_jax.load_teacher("{card.address}"{choose})  # the same weights, to teach others
```

`@REVISION` after the address is a commit, a branch or a tag. The weights are `model.safetensors`, with names, shapes
and a checksum that are verified; nothing is unpickled."""


def _teacher(game: PlayedGame) -> str:
    by = game.taught_by
    facts = [f"{escape(by.source)}"]
    if by.network is not None:
        facts.append(f"network {escape(by.network)}")
    if by.algorithm is not None:
        steps = "" if by.env_steps is None else f", {by.env_steps:,} control steps"
        facts.append(f"trained by {escape(by.algorithm)}{steps}")
    facts.append(f"licence: {escape(by.licence) if by.licence else 'not stated'}")
    if by.sha256:
        facts.append(f"SHA-256 `{by.sha256}`")
    made = f" How it was made, in its file's words: {escape(_sentence(by.how_made))}" if by.how_made else ""
    return f"The teacher of {escape(game.task.name)} is **{escape(by.name)}** ({'; '.join(facts)}).{made}"


def _making(card: Card) -> str:
    played = {"teacher": "its teacher", "student": "the student itself, labelled by its teacher"}
    who = played.get(card.behaviour, "its teacher and the student in turn, all labelled by the teacher")
    steps = sum(game.env_steps for game in card.games)
    temperatures = dict.fromkeys(game.temperature for game in card.games if game.temperature is not None)
    tau = f" at temperature {', '.join(f'{value:g}' for value in temperatures)}" if temperatures else ""
    amount = f" {steps:,} control steps of" if steps else ""
    return (
        f"It learnt in {card.updates:,} updates from{amount} play of {who}, with the loss `{card.loss}`{tau}, in "
        f"{format_seconds(card.wall_seconds)} (hours:minutes:seconds); seed {card.seed}. `config.yaml` has all "
        f"settings and `summary.json` the results. SHA-256 of the parameters: `{card.parameters_sha256}`."
    )


def _limits(card: Card) -> str:
    outputs = "the logits of a policy, not Q-values" if card.gives_logits else "Q-values, as its teacher's are"
    lines = [
        f"It plays {escape(card.names)} alone, as EnvPool shows it; other wrappers, action sets or frame rates are "
        "another task.",
        "What its teacher does badly it has learnt to do badly; what the teacher never met it has never seen.",
        f"The scores are of one student, seed {card.seed}: the interval is over games, not over students.",
        f"Its outputs are {outputs}.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _licence(card: Card) -> str:
    told = dict.fromkeys(card.licence_words)
    words = f" Of the teachers' files: {', '.join(map(escape, told))}." if told else ""
    return f"`{card.licence}`.{words}"


def _sentence(text: str) -> str:
    words = " ".join(text.split())
    words = words if len(words) <= 1000 else f"{words[:997]}..."
    return f"{words}{'' if words.endswith('.') else '.'}"


def escape(text: str) -> str:
    """Text that neither Markdown nor HTML takes for anything else, in one line."""
    plain = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return _MARKUP.sub(r"\\\1", plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
