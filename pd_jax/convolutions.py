"""Formulations of one VALID 2-D convolution: XLA's own operation, and matrix products for CPUs."""

from __future__ import annotations

import functools
import operator

import jax
import jax.numpy as jnp
from jax import Array, lax


def native_convolution(x: Array, kernel: Array, stride: int) -> Array:
    """A VALID convolution through XLA's own operation, which GPUs and TPUs run best.

    Args:
      x: ``[N, H, W, C]``, of the kernel's dtype or uint8.
      kernel: ``[size, size, C, features]``.
      stride: of both axes.

    Returns:
      ``[N, (H - size) / stride + 1, (W - size) / stride + 1, features]``.
    """
    return lax.conv_general_dilated(
        x.astype(kernel.dtype), kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def matmul_convolution(x: Array, kernel: Array, stride: int) -> Array:
    """The same convolution as one matrix product, the fastest formulation on a CPU.

    XLA's CPU convolutions fall behind with the size of the batch, and their gradients miss the fast path inside
    ``lax.scan``. The stride is folded into channels first. Every position is then multiplied by all taps at once, and
    the products are added up where they belong.

    Args:
      x: ``[N, H, W, C]``, of the kernel's dtype or uint8; H and W divisible by ``stride``.
      kernel: ``[size, size, C, features]``; ``size`` divisible by ``stride``.
      stride: of both axes.

    Returns:
      ``[N, (H - size) / stride + 1, (W - size) / stride + 1, features]``.
    """
    size, _, channels, features = kernel.shape
    taps = size // stride
    kernel = kernel.reshape(taps, stride, taps, stride, channels, features)
    if _is_made_of_words(x, stride):
        x = _words_to_depth(x)
        kernel = kernel.transpose(0, 2, 4, 1, 3, 5)
    else:
        x = space_to_depth(x, stride)
        kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
    n, height, width, depth = x.shape
    flat = _correlate(x.reshape(-1, depth).astype(kernel.dtype), kernel.reshape(taps, taps, depth, features), width)
    return flat.reshape(n, height, width, features)[:, : height - taps + 1, : width - taps + 1]


def space_to_depth(x: Array, block: int) -> Array:
    """Moves ``block x block`` patches of ``[N, H, W, C]`` into channels: ``[N, H/b, W/b, b*b*C]``."""
    if block == 1:
        return x
    n, height, width, channels = x.shape
    x = x.reshape(n, height // block, block, width // block, block, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, height // block, width // block, block * block * channels)


def _is_made_of_words(x: Array, stride: int) -> bool:
    """Whether each row of a patch is four bytes, which move as one number."""
    return x.dtype == jnp.uint8 and stride == 4


def _words_to_depth(x: Array) -> Array:
    """As :func:`space_to_depth` by 4 for bytes, but with channels outermost among the ``C * 4 * 4``.

    Stacks come from EnvPool and the replay with the frames in front and are transposed for the user's eye; here the
    transposition is undone, and the compiler drops both.
    """
    n, height, width, channels = x.shape
    planes = x.transpose(0, 3, 1, 2).reshape(n, channels, height // 4, 4, width // 4, 4)
    words = lax.bitcast_convert_type(planes, jnp.uint32).transpose(0, 2, 4, 1, 3)
    # Each pass alone: fused into the products' conversion to floats, bytes would be fetched one by one.
    depth = lax.optimization_barrier(lax.bitcast_convert_type(words, jnp.uint8))
    return depth.reshape(n, height // 4, width // 4, channels * 16)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _correlate(x: Array, kernel: Array, width: int) -> Array:
    """``y[p] = sum over i, j of x[p + i * width + j] @ kernel[i, j]``, zeros standing for what is past the end.

    Positions of all images lie in one line, so that a tap is an offset. Those that look past the edge of their image
    have no meaning and must be dropped.

    Args:
      x: ``[positions, depth]``.
      kernel: ``[taps, taps, depth, features]``.
      width: positions in a row of an image.

    Returns:
      ``[positions, features]``.
    """
    taps, _, depth, features = kernel.shape
    products = x @ kernel.transpose(2, 0, 1, 3).reshape(depth, -1)
    shifted = (
        jnp.pad(products[offset:, tap * features : (tap + 1) * features], ((0, offset), (0, 0)))
        for tap, offset in enumerate(_offsets(taps, width))
    )
    return functools.reduce(operator.add, shifted)


def _correlate_forward(x: Array, kernel: Array, width: int) -> tuple[Array, tuple[Array, Array]]:
    return _correlate(x, kernel, width), (x, kernel)


def _correlate_backward(width: int, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    """Both gradients from one array, of the gradient once for each tap: contiguous copies and two matrix products."""
    x, kernel = saved
    taps, _, depth, features = kernel.shape
    shifted = [jnp.pad(gradient[: len(gradient) - offset], ((offset, 0), (0, 0))) for offset in _offsets(taps, width)]
    of_products = jnp.concatenate(shifted, axis=1)
    of_kernel = lax.dot_general(x, of_products, (((0,), (0,)), ((), ())))
    of_x = of_products @ kernel.transpose(0, 1, 3, 2).reshape(-1, depth)
    return of_x, of_kernel.reshape(depth, taps, taps, features).transpose(1, 2, 0, 3)


_correlate.defvjp(_correlate_forward, _correlate_backward)


def _offsets(taps: int, width: int) -> list[int]:
    """Of all taps, row by row."""
    return [row * width + column for row in range(taps) for column in range(taps)]
