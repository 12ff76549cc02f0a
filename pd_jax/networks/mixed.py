"""Students that see several things at once, or games of several kinds: a torso for each, and a layer that joins them.

What a game shows is put into one line of numbers for the way through replay and minibatch: frames or a vector first,
and behind them what is seen beside. A line is float32 where all of it is vectors. Where a student sees frames it is
bytes: pixels, the four bytes of each float of a vector, and one byte for each number beside.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

_FLOAT_BYTES = 4
_BYTE_SCALE = 1.0 / 255.0


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the line of one game holds.

    Attributes:
      shape: of frames ``(H, W, n)``, or of a vector ``(D,)``.
      also: bytes of a console's memory that follow each of the frames, which then come as a line; the newest are seen.
      recent: numbers of last actions.
      in_bytes: whether the line is bytes; otherwise it is float32.
    """

    shape: tuple[int, ...]
    also: int = 0
    recent: int = 0
    in_bytes: bool = False

    @property
    def is_frames(self) -> bool:
        """Whether the first part is frames."""
        return len(self.shape) > 1

    @property
    def main(self) -> int:
        """Places of the first part."""
        count = math.prod(self.shape)
        if self.also:
            return count + self.shape[-1] * self.also
        return count * _FLOAT_BYTES if self.in_bytes and not self.is_frames else count

    @property
    def extra(self) -> int:
        """Numbers beside the first part."""
        return self.also + self.recent

    @property
    def size(self) -> int:
        """Places of the line."""
        return self.main + self.recent

    def pack(self, observations: Array, recent: Array | None) -> Array:
        """The line of some observations.

        Args:
          observations: ``[..., *shape]``; with bytes of a memory beside, uint8 ``[..., main]``.
          recent: float32 ``[..., recent]`` from `pd_jax.networks.recent`; None is none yet.

        Returns:
          ``[..., size]``.
        """
        rank = 1 if self.also else len(self.shape)
        leading = observations.shape[: observations.ndim - rank]
        if self.in_bytes and not self.is_frames:
            observations = lax.bitcast_convert_type(observations.astype(jnp.float32), jnp.uint8)
        line = observations.reshape(*leading, -1)
        if not self.recent:
            return line
        beside = jnp.zeros((*leading, self.recent), line.dtype) if recent is None else recent.astype(line.dtype)
        return jnp.concatenate([line, beside], axis=-1)

    def split(self, lines: Array) -> tuple[Array, Array]:
        """The first part ``[N, *shape]``, and float32 ``[N, extra]``, of lines ``[N, at least size]``."""
        main, recent = lines[:, : self.main], lines[:, self.main : self.size].astype(jnp.float32)
        if self.also:
            height, width, count = self.shape
            samples = main.reshape(-1, count, height * width + self.also)
            frames = samples[..., : height * width].reshape(-1, count, height, width)
            also = samples[:, -1, height * width :].astype(jnp.float32) * _BYTE_SCALE
            return frames.transpose(0, 2, 3, 1), jnp.concatenate([also, recent], axis=1)
        if self.in_bytes and not self.is_frames:
            main = lax.bitcast_convert_type(main.reshape(-1, self.main // _FLOAT_BYTES, _FLOAT_BYTES), jnp.float32)
        return main.reshape(-1, *self.shape), recent


class JointTorso(nn.Module):
    """A torso for frames, one for vectors, one for what is beside, and a dense layer with a ReLU over what they give.

    Games have these torsos in common, each of those that it has something for. Of what is beside, each game has inputs
    of its own, for its numbers mean other things.

    Parameters of the joint layer: ``bias`` ``[hidden]``, and a ``kernel`` ``[F, hidden]`` for each torso, in
    ``joint_frames``, ``joint_vector`` and ``joint_extra``.

    Attributes:
      layouts: of each game.
      frames, vector, extra: linen modules, ``[N, ...]`` to features ``[N, F]``; None where no game has such a part.
      hidden: units of the joint layer.
      dtype: of its computation; parameters are float32.
    """

    layouts: tuple[Layout, ...]
    frames: nn.Module | None
    vector: nn.Module | None
    extra: nn.Module | None
    hidden: int
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Names the joint layer."""
        # Two parts of one sum: each begins at half of the variance.
        scale = 2.0 if self.extra is None else 1.0
        init = nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal")
        options: dict[str, Any] = {"use_bias": False, "dtype": self.dtype, "kernel_init": init}
        self.joint_frames = nn.Dense(self.hidden, **options)
        self.joint_vector = nn.Dense(self.hidden, **options)
        self.joint_extra = nn.Dense(self.hidden, **options)
        self.bias = self.param("bias", nn.initializers.zeros_init(), (self.hidden,), jnp.float32)

    def __call__(self, lines: Array, game: int = 0) -> Array:
        """Maps the lines ``[N, P]`` of one game to features ``[N, hidden]``."""
        (features,) = self._features([lines], [game])
        return features

    def of_games(self, lines: Array) -> Array:
        """Maps lines ``[G, B, P]`` of all games to features ``[G, B, hidden]``."""
        games = range(len(self.layouts))
        return jnp.stack(self._features([lines[game] for game in games], games))

    def _features(self, lines: Sequence[Array], games: Sequence[int]) -> list[Array]:
        """Those of each of some games."""
        layouts = [self.layouts[game] for game in games]
        mains, extras = zip(*(layout.split(own) for layout, own in zip(layouts, lines, strict=True)), strict=True)
        sums: dict[int, Array] = {}
        for torso, joint, is_frames in (
            (self.frames, self.joint_frames, True),
            (self.vector, self.joint_vector, False),
        ):
            its = [place for place, layout in enumerate(layouts) if layout.is_frames == is_frames]
            if torso is not None and its:
                # One large batch, of vectors as long as the longest.
                together = jnp.concatenate([self._padded(mains[place]) for place in its])
                sums |= zip(its, self._apart(joint(torso(together)), mains, its), strict=True)
        if self.extra is not None:
            together = jnp.concatenate([self._at_its_place(*own) for own in zip(extras, games, strict=True)])
            beside = self._apart(self.joint_extra(self.extra(together)), mains, range(len(games)))
            sums = {place: sums[place] + own for place, own in enumerate(beside)}
        return [nn.relu(sums[place] + self.bias.astype(self.dtype)) for place in range(len(games))]

    @staticmethod
    def _apart(features: Array, mains: Sequence[Array], places: Sequence[int]) -> list[Array]:
        """Features of several games, which are there one after another."""
        if len(places) == 1:
            # A batch that is exported has a name instead of a number.
            return [features]
        ends = np.cumsum([len(mains[place]) for place in places])
        return jnp.split(features, ends[:-1])

    def _padded(self, main: Array) -> Array:
        if main.ndim > 2:
            return main
        longest = max(layout.shape[0] for layout in self.layouts if not layout.is_frames)
        return jnp.pad(main, ((0, 0), (0, longest - main.shape[1])))

    def _at_its_place(self, extra: Array, game: int) -> Array:
        """What a game has beside, among the inputs of all games."""
        before = extra_offset(self.layouts, game)
        after = sum(layout.extra for layout in self.layouts) - before - extra.shape[1]
        return jnp.pad(extra, ((0, 0), (before, after)))


def extra_offset(layouts: Sequence[Layout], game: int) -> int:
    """The first of the inputs that a game's numbers beside have among those of all games."""
    return sum(layout.extra for layout in layouts[:game])
