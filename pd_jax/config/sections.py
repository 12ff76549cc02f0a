"""The settings of single concerns (environments, learner, schedule, ...), which commands share.

A field's type says which values are possible (`Bounds`); its docstring is its ``--help`` text.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from pd_jax.config.fields import Bounds, Choice, FilePath, MaxItems, OneOrMany, make_tuples
from pd_jax.config.observation import StudentObservationConfig
from pd_jax.config.own_networks import own_networks

# Counters on devices are int32.
Count = Annotated[int, Bounds(1, 2**31 - 1)]
CountOrZero = Annotated[int, Bounds(0, 2**31 - 1)]
Lanes = Annotated[int, Bounds(1, 2**16)]
Width = Annotated[int, Bounds(1, 2**16)]
WidthOrZero = Annotated[int, Bounds(0, 2**16)]
Probability = Annotated[float, Bounds(0.0, 1.0)]
# Wide enough for any sane rate, scale or temperature, and neither 0 nor infinite as a float32.
Positive = Annotated[float, Bounds(1e-12, 1e6)]
# Of a game among others; sums of them stay float32.
Weight = Annotated[float, Bounds(0.0, 1e6)]
# Of worker processes; auto chooses.
Jobs = Annotated[int, Bounds(1, 1024)] | Literal["auto"]
# Of examples, or of parts; auto is by the machine.
PartSize = Annotated[int, Bounds(1, 2**16)] | Literal["auto"]
# Each part is written out in a program, which takes the longer to compile.
PartCount = Annotated[int, Bounds(1, 64)] | Literal["auto"]
Seconds = Annotated[float, Bounds(1e-3, 1e9)]
# A second of a busy CPU is tens of megabytes of trace.
WindowSeconds = Annotated[float, Bounds(0.1, 60.0)]
# EnvPool takes 32-bit seeds; this leaves room for adding the offset and the lane.
Seed = Annotated[int, Bounds(0, 2 * 10**9)]
SeedOffset = Annotated[int, Bounds(0, 10**8)]
LossKind = Literal[
    "kl", "nll", "mse", "reverse_kl", "jsd", "expected_entropy", "huber", "advantage_mse", "advantage_huber"
]
Loss = Annotated[LossKind, Choice("a loss")]
ActionKind = Literal["auto", "gaussian", "squashed", "means"]
Q_LOSSES = ("mse", "huber")
ADVANTAGE_LOSSES = ("advantage_mse", "advantage_huber")
BY_GAME = ("gradnorm", "pcgrad")
"""Balances that need the gradients of every game apart."""
DataOrder = Annotated[Literal["recorded", "shuffled"], Choice("an order of recorded play")]
if TYPE_CHECKING:
    # What one may give from Python. There is always a tuple afterwards: make_tuples sees to it.
    Words = str | tuple[str, ...]
    Paths = str | tuple[str, ...]
    PerGameLanes = int | tuple[int, ...]
    PerGameTemperature = float | Literal["auto"] | tuple[float | Literal["auto"], ...]
    PerGameWeights = float | tuple[float, ...]
else:
    Words = Annotated[tuple[str, ...], OneOrMany()]
    Paths = Annotated[tuple[str, ...], OneOrMany(), FilePath()]
    PerGameLanes = Annotated[tuple[Lanes, ...], OneOrMany()]
    PerGameTemperature = Annotated[tuple[Positive | Literal["auto"], ...], OneOrMany()]
    PerGameWeights = Annotated[tuple[Weight, ...], OneOrMany()]


def needs_temperature(kind: str, weights: str) -> bool:
    """Whether a loss of this kind, or these weights of examples, depend on a temperature."""
    return kind not in ("nll", *Q_LOSSES) or weights == "entropy"


# Of a file or a directory; of a teacher, a name as well.
PathText = Annotated[str, FilePath()]
RunDirectories = tyro.conf.Positional[
    Annotated[tuple[str, ...], MaxItems(4096), FilePath(), tyro.conf.arg(metavar="RUN...")]
]
StudentNetwork = Annotated[
    Literal["dqn", "net1", "net2", "net3", "multi3", "multi10", "mlp", "mlp_bits"],
    Choice("a network", added=own_networks, to_add="one of your own is made known by --import FILE.py"),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmulatorConfig:
    """How environments run."""

    num_threads: Annotated[int, Bounds(0, 1024)] = 0
    """EnvPool's threads; 0 is one for each core."""
    sticky_action_probability: Probability = 0.0
    """Chance that a frame repeats the previous action (Atari only)."""
    # EnvPool leaves this check to its callers.
    max_noops: Annotated[int, Bounds(1, 1000)] = 30
    """An episode starts with up to this many no-ops (Atari only)."""
    fire_reset: bool = True
    """An episode then starts with FIRE, in games that have it (Atari only)."""
    backend: Annotated[Literal["envpool", "ale"], Choice("a source of play")] = "envpool"
    """EnvPool, or ale-py's own vector environment from the host (Atari only; pip install '.[ale]'). The play is the
    same, by two builds of the emulator."""
    stepping: Annotated[Literal["auto", "jit", "host"], Choice("a way of stepping")] = "auto"
    """Step EnvPool inside the jitted rollout, or from the host; auto is jit on CPUs and CUDA. The play is the same."""

    def environment_options(self) -> dict[str, Any]:
        """Keyword arguments of `pd_jax.environments.envpool.Environment` that these settings stand for."""
        return {
            "max_noops": self.max_noops,
            "max_episode_steps": None,
            "sticky_action_probability": self.sticky_action_probability,
            "fire_reset": self.fire_reset,
            "num_threads": self.num_threads,
            "backend": self.backend,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneGameEnvConfig(EmulatorConfig):
    """How environments run, and how many."""

    num_lanes: Lanes = 32
    """Environments that play side by side, on all devices together."""
    max_episode_steps: Count | None = None
    """Control steps after which an episode is cut; None is the task's own limit (Atari: 27,000, 30 minutes of play)."""

    def environment_options(self) -> dict[str, Any]:
        return super().environment_options() | {"max_episode_steps": self.max_episode_steps}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvConfig(OneGameEnvConfig):
    """How environments run, and how many."""

    lanes: PerGameLanes | None = None
    """Environments of each game, in the games' order; None is num_lanes of every game."""

    def __post_init__(self) -> None:
        make_tuples(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormalisationConfig:
    """The statistics by which an mlp normalises the vectors that it sees. They are frozen: what a run begins with is in
    its config.yaml, and in all that is made of its student."""

    source: Annotated[Literal["auto", "none", "teacher", "play", "given"], Choice("a source of statistics")] = "auto"
    """The teacher's own (teacher), those of what the student sees of some of its play (play), those of mean and
    variance (given), or none; auto is the teacher's in continuous tasks, if it has any, and play for a console's
    memory."""
    mean: Annotated[tuple[Annotated[float, Bounds(-1e9, 1e9)], ...], MaxItems(4096)] | None = None
    """Of each number of an observation (given)."""
    variance: Annotated[tuple[Annotated[float, Bounds(0.0, 1e12)], ...], MaxItems(4096)] | None = None
    """Of each number of an observation (given)."""
    epsilon: Annotated[float, Bounds(0.0, 1.0)] = 1e-8
    """Added to the variance under the root (given)."""
    clip: Positive | None = None
    """Normalised numbers are cut off at it, either way (given); None leaves them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """The network that learns."""

    network: StudentNetwork = "net2"
    """The paper's networks by name, or mlp for vector observations; mlp_bits is an mlp of the bits of a console's
    memory. Or the name of a network of your own."""
    mlp_hidden: tuple[Width, ...] = (128, 128)
    """Units of mlp's hidden layers."""
    channels: tuple[Width, ...] | None = None
    """Of the three convolutions, whatever the network's name stands for; None is what it stands for."""
    hidden: Width | None = None
    """Units of the dense layer after the convolutions; None is what the network's name stands for."""
    head_hidden: WidthOrZero = 128
    """Units of the hidden layer of each game's head (several games, multi3 and multi10); 0 leaves it out."""
    layer_norm: bool = False
    """Normalise each layer before its ReLU, but for one that joins torsos. The paper's students do not; one that is to
    go on by rewards should, as PQN relies on it (guidance.teacher of train-teacher)."""
    compute_dtype: Annotated[Literal["float32", "bfloat16"], Choice("a compute type")] = "float32"
    """Type of the activations; parameters and losses are float32 always."""
    actions: Annotated[ActionKind, Choice("a kind of actions")] = "auto"
    """What the student of a continuous task gives: Gaussians, whose samples are clipped to the range (gaussian) or go
    through tanh (squashed), or actions (means). Auto follows from the loss and the teacher."""
    normalisation: NormalisationConfig = dataclasses.field(default_factory=NormalisationConfig)
    quantisation: Annotated[Literal["none", "int8"], Choice("a quantisation")] = "none"
    """Int8 goes on from the student of init_from and learns as 8-bit integers compute, which export then writes."""
    memory: Annotated[Literal["none", "gru", "lstm"], Choice("a memory")] = "none"
    """A recurrent layer between torso and head, which carries what was seen from step to step of an episode; it learns
    from sequences of play, see learner.sequence_length."""
    memory_size: Width = 128
    """Units of the recurrent layer (memory only)."""
    extra_hidden: tuple[Width, ...] = (64,)
    """Units of the mlp that sees what is beside frames or a vector, such as the last actions (student.observation)."""
    joint_hidden: Width = 128
    """Units of the layer that joins torsos, where the student has several: of what it sees beside, or of games that
    show frames and games that show vectors."""
    observation: StudentObservationConfig = dataclasses.field(default_factory=StudentObservationConfig)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BehaviourConfig:
    """Whose actions are played in live play, and so whose states are learnt from; the teacher labels them all."""

    policy: Annotated[Literal["teacher", "student", "mixture"], Choice("a behaviour")] = "teacher"
    """Teacher is the paper's; student is DAgger's (Ross et al. 2011); a mixture decides at every step of every lane."""
    student_share_start: Probability = 0.0
    """Chance that the student acts, in the first round (mixture only)."""
    student_share_end: Probability = 1.0
    """Chance that the student acts, once it has changed (mixture only)."""
    student_share_change_fraction: Probability = 0.5
    """Share of the rounds over which it changes, linearly (mixture only)."""

    @property
    def student_acts(self) -> bool:
        """Whether any action may be the student's."""
        return self.policy != "teacher"

    @property
    def student_share_changes(self) -> bool:
        """Whether the student's share depends on the round, and on how many there are to be."""
        return self.policy == "mixture" and self.student_share_start != self.student_share_end

    def student_share(self, finished_rounds: int, rounds: int) -> float:
        """Chance that an action is the student's in the round after ``finished_rounds`` of ``rounds``.

        It is 1 - β of DAgger (Ross, Gordon and Bagnell 2011, algorithm 3.1), whose policy in round i is the mixture
        ``β_i expert + (1 - β_i) student``.
        """
        if self.policy != "mixture":
            return float(self.student_acts)
        changing = self.student_share_change_fraction * rounds
        if finished_rounds >= changing:
            return self.student_share_end
        changed = finished_rounds / changing
        return (1 - changed) * self.student_share_start + changed * self.student_share_end


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActorsConfig:
    """Where and when the play takes place. It changes nothing in what is played."""

    overlap: bool | None = None
    """Play a round while the updates of the round before run; None does so wherever the play does not wait for the
    student, but for live play beside updates on a CPU: both want its cores."""
    queue_mib: Count = 1024
    """Memory for play that is ahead of the updates, in MiB, for all games together; at least one rollout of each game.
    Full, the play waits."""
    num_devices: CountOrZero = 0
    """Devices that only play, besides those of the learner, which they follow; each game is played on one of them. 0
    plays on the learner's first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What the student is asked to match."""

    kind: Loss = "kl"
    """What the student is to match: the teacher's policy at the temperature (kl, reverse_kl, jsd, expected_entropy),
    its best action (nll), its Q-values (mse, huber), or its advantages in units of the temperature (advantage_mse,
    advantage_huber)."""
    temperature: PerGameTemperature | None = None
    """The teacher's outputs are divided by it (not in nll, mse and huber): one number for all games, or one for each in
    their order; auto finds the one at which the teacher's policy has target_entropy, whatever the outputs' scale. None
    is 0.01 for Q-values and 1.0 for logits, and auto for advantages."""
    target_entropy: Annotated[float, Bounds(0.001, 0.99)] = 0.75
    """Mean entropy of the teacher's policy over the play, as a share of the logarithm of the number of actions, that
    the temperature auto is to give."""
    beta: Annotated[float, Bounds(1e-6, 1 - 1e-6)] = 0.5
    """The teacher's share of the mixture (jsd only): near 0 it learns as kl, near 1 as reverse_kl."""
    delta: Positive = 1.0
    """Differences above it count by their size and not by its square (huber, in units of Q, and advantage_huber, in
    units of the temperature)."""
    weights: Annotated[Literal["none", "action_gap", "entropy"], Choice("a weight of examples")] = "none"
    """What a state counts in the loss: as much as every other; by the teacher's action gap there; or the more, the less
    entropy its policy has at the temperature."""

    def __post_init__(self) -> None:
        make_tuples(self)

    def of_kind(self, kind: LossKind, temperature: PerGameTemperature | None) -> LossConfig:
        """These settings for another loss, without those that it does not have."""
        other = dataclasses.replace(self, kind=kind, temperature=temperature)
        own = {"beta": kind == "jsd", "delta": "huber" in kind, "target_entropy": other.is_auto}
        default = LossConfig()
        return dataclasses.replace(other, **{name: getattr(default, name) for name, has in own.items() if not has})

    @property
    def gives_q(self) -> bool:
        """Whether a student of this loss gives Q-values; otherwise it gives the logits of a policy."""
        return self.kind in Q_LOSSES

    @property
    def has_temperature(self) -> bool:
        """Whether what the student learns depends on a temperature."""
        return needs_temperature(self.kind, self.weights)

    @property
    def is_auto(self) -> bool:
        """Whether a temperature is found from the play, of any game."""
        return self.has_temperature and "auto" in self._temperatures

    def is_auto_for(self, game: int) -> bool:
        """Whether the temperature of a game is found from its play."""
        return self.has_temperature and self._temperature_of(game) == "auto"

    def temperature_for(self, game: int = 0, *, teacher_gives_logits: bool) -> float:
        """The temperature of a game; Q-values are flat and need sharpening (Rusu et al. 2016), logits do not.

        Where it is found from the play, this is what it is until then.
        """
        own = self._temperature_of(game)
        if own is None or own == "auto":
            return 1.0 if teacher_gives_logits else 0.01
        return own

    @property
    def _temperatures(self) -> tuple[float | Literal["auto"] | None, ...]:
        if self.temperature is None:
            return ("auto" if self.kind in ADVANTAGE_LOSSES else None,)
        assert isinstance(self.temperature, tuple)
        return self.temperature

    def _temperature_of(self, game: int) -> float | Literal["auto"] | None:
        own = self._temperatures
        return own[game if len(own) > 1 else 0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """The student's updates."""

    batch_size: Count = 32
    """Samples in a minibatch, on all devices together."""
    accumulate: Count = 1
    """Parts of a minibatch that every device goes through one after another, adding up gradients: for a minibatch whose
    layers are more than the memory holds. A CPU takes what its caches do not hold in more parts unasked."""
    optimizer: Annotated[Literal["rmsprop", "adam", "muon"], Choice("an optimizer")] = "rmsprop"
    """RMSProp is the paper's. Muon (Jordan 2024) needs several times fewer updates, which cost a third more; biases and
    wide matrices (256 x 256 and more) are left to Adam, those at a tenth of the rate."""
    learning_rate: Positive = 2.5e-4
    """The paper's is between 1e-4 and 1e-3; muon's is about 1e-2."""
    learning_rate_decay: bool = False
    """Let the learning rate fall linearly to 0 over all updates of the schedule."""
    rmsprop_decay: Probability = 0.95
    """Share of the old mean of squared gradients that is kept at each update."""
    rmsprop_epsilon: Positive = 1e-6
    """Added under the root to the mean of squared gradients: gradients well below 1e-3 move a weight less."""
    max_grad_norm: Positive | None = None
    """Gradients with a larger global norm are scaled down to it; None leaves them."""
    games: Annotated[Literal["together", "alternating"], Choice("a schedule of games")] = "together"
    """Whether every update sees a minibatch of every game, or of one game after another, as the paper has it."""
    sampling: Annotated[Literal["uniform", "loss", "action_gap"], Choice("a way of sampling")] = "uniform"
    """Stored steps are drawn with equal chances; or rather those on which the student's loss is large, or on which the
    teacher's best action is far better than the next. Priorities are of candidates drawn for this very update."""
    sampling_candidates: Annotated[int, Bounds(2, 64)] = 4
    """Candidates for each example that is learnt from (not uniform). For loss, the student sees them all."""
    sampling_exponent: Annotated[float, Bounds(0.0, 4.0)] = 0.6
    """Chances are priorities to this power; 0 is uniform (not uniform)."""
    sampling_correction: Probability = 0.4
    """1 weighs examples so that the mean gradient is that of uniform sampling, 0 does not weigh them (not uniform)."""
    random_shift: Annotated[int, Bounds(0, 16)] = 0
    """Move each stack of frames by up to so many pixels either way, its edges repeated; the teacher's outputs stay
    (Atari only)."""
    sequence_length: Annotated[int, Bounds(1, 4096)] = 16
    """Steps of a sequence that a student with memory learns from at once: gradients reach back no further (truncated
    backpropagation through time). A minibatch has batch_size steps, in batch_size / sequence_length sequences."""
    burn_in: Annotated[int, Bounds(0, 4096)] = 8
    """Steps before each sequence that a student with memory goes through without learning from them, so that it
    remembers at its first step (Kapturowski et al. 2019)."""
    average_decay: Annotated[float, Bounds(0.0, 0.9999999)] | None = None
    """Keep an average of the weights, of which so much stays at each update (0.999: of about a thousand updates). It is
    what acts, is scored and is handed on; None takes the weights as they are."""
    game_weights: PerGameWeights | None = None
    """What each game counts in an update that sees all of them, in the games' order; made to have the mean 1. None has
    all count the same (Kurin et al. 2022)."""
    balance: Annotated[Literal["none", "uncertainty", "gradnorm", "pcgrad"], Choice("a balance of games")] = "none"
    """How the games become one in an update that sees all of them: none is the mean of their losses; uncertainty
    learns their weights from their losses (Kendall et al. 2018), gradnorm from the norms of their gradients on the
    last shared layer (Chen et al. 2018); pcgrad, experimental, takes away from a game's gradient what opposes another's
    (Yu et al. 2020)."""
    balance_rate: Positive = 0.025
    """Adam's learning rate for weights that are learnt (uncertainty and gradnorm)."""
    gradnorm_alpha: Annotated[float, Bounds(0.0, 10.0)] = 1.5
    """How much harder games pull that learn more slowly than others (gradnorm); 0 has all pull alike."""
    gradient_cosines_every: CountOrZero = 0
    """Updates between measurements of the angles between the games' gradients, in each layer that they share, for
    metrics.jsonl and gradient_cosines.png; 0 measures none. It changes nothing in what is learnt."""
    updates_per_call: Count = 50
    """Updates in one jitted call."""
    num_devices: Lanes | None = None
    """Devices to share lanes and minibatches; None is all there are, but for actors.num_devices."""

    def __post_init__(self) -> None:
        make_tuples(self)

    @property
    def is_by_game(self) -> bool:
        """Whether an update sees all games, and takes their gradients one game after another."""
        return self.games == "together" and self.balance in BY_GAME

    def learning_rate_after(self, updates: int, total_updates: int) -> float:
        """The learning rate of the next update, as `pd_jax.learner.learner` has it, without asking a busy device."""
        fallen = updates / total_updates if self.learning_rate_decay else 0.0
        return self.learning_rate * max(0.0, 1.0 - fallen)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartsConfig:
    """How a CPU divides large batches of frames, as its caches and cores want it; nothing else is divided. The order of
    sums follows from it, and so do the last bits. What auto stands for is settled as a run begins, and kept."""

    convolution: PartSize = "auto"
    """Examples that go through the convolutions at once, on one core, for a gradient."""
    inference: PartSize = "auto"
    """The same where no gradient is taken; of small batches fewer, so that each core has some."""
    narrow: PartSize = "auto"
    """As inference, of networks whose first convolution has at most 16 channels."""
    at_once: PartCount = "auto"
    """Such parts that are begun together where no gradient is taken."""
    most: PartCount = "auto"
    """Such parts that are begun together at most."""
    gradient: PartSize = "auto"
    """Examples whose gradients are taken at once."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """The store of played steps."""

    capacity: Count = 540_000
    """Control steps kept of each game, in all lanes together (540,000: 10 hours at 15 Hz, 3.8 GB of frames)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Rounds of play, each followed by updates."""

    rounds: Count = 10
    """Times that play and updates take turns."""
    steps_per_round: Count = 54_000
    """Control steps of each game in a round, in all lanes together, rounded up to whole rollouts (lanes x rollout
    length)."""
    updates_per_round: Count = 10_000
    """Minibatch updates after the play of a round."""
    rollout_length: Count = 32
    """Steps per lane in one jitted rollout."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """The protocol of a score."""

    episodes: Count = 30
    """Whole episodes whose mean return is the score; rounded up to the same number for every lane."""
    num_lanes: Lanes = 10
    """Environments that play these side by side."""
    epsilon: Probability = 0.05
    """Chance of a random action; of continuous actions, the scale of their noise."""
    seed_offset: SeedOffset = 1_000_000
    """Added to the run's seed, so that evaluation does not replay training's episodes."""
    max_episode_steps: Count | None = None
    """Control steps after which an episode is cut; None is the task's own limit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudentEvaluationConfig(EvaluationConfig):
    """The protocol of a score, and when to take one on the way."""

    every_rounds: CountOrZero = 0
    """Rounds between evaluations on the way; 0 evaluates at the end only."""
    progress_episodes: Count = 10
    """Episodes of an evaluation on the way."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherEvaluationConfig(EvaluationConfig):
    """The protocol of a score, and when to take one on the way."""

    every_steps: CountOrZero = 1_000_000
    """Control steps between evaluations on the way; 0 evaluates at the end only."""
    progress_episodes: Count = 10
    """Episodes of an evaluation on the way."""
    snapshots: bool = False
    """Keep the weights of every evaluation on the way, as snapshots/STEPS.safetensors in the run: a teacher that
    improves, for pd-jax online --teacher-snapshots."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostsConfig:
    """One program on several hosts. Slurm's srun, Open MPI and TPU pods on GKE say by themselves who takes part."""

    coordinator: str | None = None
    """HOST:PORT of process 0, for all to meet at."""
    num_processes: Lanes | None = None
    """Processes that take part; 1 is this one alone, whatever a launcher says, and needs no coordinator."""
    process_id: CountOrZero | None = None
    """Which of them this one is, from 0."""
    detect: bool | None = None
    """Have JAX find out who takes part, as on TPU pods without GKE; false is alone, whatever a launcher says. None
    joins those whom one of these launchers started too."""
    start_timeout: Annotated[int, Bounds(1, 86_400)] = 300
    """Seconds to wait for all processes to start."""

    @property
    def alone(self) -> bool:
        """Whether this is said to be the only process, whatever a launcher says."""
        if (self.coordinator, self.num_processes, self.process_id) == (None, None, None):
            return self.detect is False
        return self.num_processes == 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the student is saved."""

    every_updates: Count = 10_000
    """Updates between checkpoints: the most that a crash can cost."""
    every_seconds: Seconds | None = None
    """Save as well once the last checkpoint is this old; None goes by the updates alone."""
    keep: Count = 3
    """Newest checkpoints kept."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillCheckpointConfig(CheckpointConfig):
    """When the student is saved, what with it, and what becomes of one that diverges."""

    replay: bool = False
    """Save the replay of live play too, so that a run that is resumed need not play it anew."""
    on_divergence: Annotated[Literal["stop", "roll_back"], Choice("an answer to divergence")] = "stop"
    """When the loss or a weight is NaN or infinite: end the run, or go on from the newest checkpoint with other
    samples. The bad state is kept in diverged/ either way."""
    max_roll_backs: Count = 3
    """Times a run is rolled back before it ends after all (roll_back only)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherCheckpointConfig:
    """When the teacher in training is saved."""

    every_steps: Count = 1_000_000
    """Control steps between checkpoints: the most that a crash can cost."""
    every_seconds: Seconds | None = None
    """Save as well once the last checkpoint is this old; None goes by the steps alone."""
    keep: Count = 3
    """Newest checkpoints kept."""
