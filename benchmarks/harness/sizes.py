"""How much is measured: a toy that only shows that all of it runs, two CPU cores, and an accelerator."""

from __future__ import annotations

import dataclasses

import jax

from pd_jax.errors import UserError, nearest

SIZE_NAMES = ("auto", "toy", "small", "full")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """What every stage goes by.

    Attributes:
      name: of the size.
      turns: that competitors take.
      live_turns: likewise, of the live loop.
      start_up_turns: likewise, of the start-up stage, each of which starts three processes.
      call_flops: operations of one timed call of a network, by which it is seen how many batches a call goes through.
      call_env_steps: control steps of one timed call of EnvPool.
      matrix_size, array_bytes: of the ceilings' matrix product and pass over memory.
      play_steps: recorded control steps that batches are made of, in all lanes.
      capacity: control steps of the replay, which is filled.
      networks: students.
      batches: of updates and inference, beside PyTorch.
      more_batches: of updates, ours alone, of the first of ``growing_networks`` that there are.
      growing_networks: whose cost is followed over more batches, games and devices.
      bfloat16_batches: of updates in bfloat16.
      lanes: of EnvPool and of the teacher's inference.
      rollout_lanes: of rollouts; the first is also stepped from the host.
      games: numbers of games in one student.
      multi_game_networks: the paper's students of several games, each with how many.
      students: numbers of students that train in one program.
      devices: numbers of devices; on a CPU, virtual ones.
      per_device_batch: of the devices', the games' and the students' updates.
      latency_calls: of one turn.
      sampling_updates: of one turn of the updates that draw their own minibatches, of 32 examples; of more, fewer.
      sampling_turns: how many times ``turns`` these take.
      episodes, max_episode_steps: of the evaluation.
      live: teacher, network, control steps and updates of a round.
      start_up_config: of the run that is started, a file in ``configs/``.
    """

    name: str
    turns: int
    live_turns: int
    start_up_turns: int
    call_flops: float
    call_env_steps: int
    matrix_size: int
    array_bytes: int
    play_steps: int
    capacity: int
    networks: tuple[str, ...]
    batches: tuple[int, ...]
    more_batches: tuple[int, ...]
    growing_networks: tuple[str, ...]
    bfloat16_batches: tuple[int, ...]
    lanes: tuple[int, ...]
    rollout_lanes: tuple[int, ...]
    games: tuple[int, ...]
    multi_game_networks: tuple[tuple[str, int], ...]
    students: tuple[int, ...]
    devices: tuple[int, ...]
    per_device_batch: int
    latency_calls: int
    sampling_updates: int
    sampling_turns: int
    episodes: int
    max_episode_steps: int
    live: tuple[str, str, int, int]
    start_up_config: str


_TOY = Size(
    name="toy",
    turns=2,
    live_turns=1,
    start_up_turns=1,
    call_flops=1e7,
    call_env_steps=16,
    matrix_size=256,
    array_bytes=2**20,
    play_steps=512,
    capacity=512,
    networks=("net3",),
    batches=(4, 8),
    more_batches=(),
    growing_networks=("net3",),
    bfloat16_batches=(4,),
    lanes=(2, 4),
    rollout_lanes=(2,),
    games=(1, 2),
    multi_game_networks=(("multi3", 2),),
    students=(1, 2),
    devices=(1, 2),
    per_device_batch=4,
    latency_calls=10,
    sampling_updates=1,
    sampling_turns=1,
    episodes=2,
    max_episode_steps=20,
    live=("cartpole", "mlp", 512, 100),
    start_up_config="cartpole.yaml",
)
_SMALL = Size(
    name="small",
    turns=5,
    live_turns=5,
    start_up_turns=3,
    call_flops=2e10,
    call_env_steps=1024,
    matrix_size=2048,
    array_bytes=2**28,
    play_steps=4096,
    capacity=102_400,
    networks=("dqn", "net1", "net2", "net3"),
    batches=(32, 64, 128, 256, 512),
    more_batches=(1024, 2048, 4096, 8192, 16_384),
    growing_networks=("net2",),
    bfloat16_batches=(32, 128, 512),
    lanes=(1, 4, 16, 32, 64, 128, 256),
    rollout_lanes=(16, 1, 4, 64, 256),
    games=(1, 2, 3, 5, 10),
    multi_game_networks=(("multi3", 3), ("multi10", 10)),
    students=(1, 2, 4),
    devices=(1, 2, 4, 8),
    per_device_batch=32,
    latency_calls=300,
    sampling_updates=24,
    sampling_turns=5,
    episodes=10,
    max_episode_steps=600,
    live=("pong", "net2", 1024, 450),
    start_up_config="pong.yaml",
)
_FULL = dataclasses.replace(
    _SMALL,
    name="full",
    turns=7,
    call_flops=5e12,
    call_env_steps=8192,
    matrix_size=8192,
    array_bytes=2**32,
    play_steps=16_384,
    capacity=540_000,
    batches=(32, 64, 128, 256, 512, 1024, 2048, 4096),
    more_batches=(8192, 16_384),
    growing_networks=("dqn", "net1", "net2", "net3"),
    bfloat16_batches=(32, 128, 512, 2048, 4096, 16_384),
    rollout_lanes=(256, 16, 64, 128),
    per_device_batch=256,
    students=(1, 2, 4, 8, 16),
    latency_calls=1000,
    live=("pong", "net2", 16_384, 7_200),
)
_SIZES = {size.name: size for size in (_TOY, _SMALL, _FULL)}


def find_size(name: str) -> Size:
    """The size of a name; ``auto`` is ``full`` with an accelerator and ``small`` without.

    Raises:
      UserError: there is no such size.
    """
    if name == "auto":
        name = "small" if jax.default_backend() == "cpu" else "full"
    if name not in _SIZES:
        raise UserError(f"--size: {name!r} is not a size{nearest(name, SIZE_NAMES)} ({', '.join(SIZE_NAMES)})")
    return _SIZES[name]
