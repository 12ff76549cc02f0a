"""Formulations of one VALID 2-D convolution: XLA's own operation, and matrix products for CPUs."""

from __future__ import annotations

import functools
import operator
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

from pd_jax.system.devices import target_platform

ConvolutionMethod = Literal["auto", "matmul", "native"]


def convolve(x: Array, kernel: Array, stride: int, method: ConvolutionMethod = "auto") -> Array:
    """A VALID convolution.

    Args:
      x: ``[N, H, W, C]``, of the kernel's dtype or uint8.
      kernel: ``[size, size, C, features]``.
      stride: of both axes.
      method: its formulation; ``auto`` is the faster one on the platform that is traced for.

    Returns:
      ``[N, (H - size) / stride + 1, (W - size) / stride + 1, features]``.
    """
    formulation = matmul_convolution if formulation_on(target_platform(), method) == "matmul" else native_convolution
    return formulation(x, kernel, stride)


def formulation_on(platform: str, method: ConvolutionMethod = "auto") -> ConvolutionMethod:
    """``matmul`` or ``native``: what a method stands for on a platform."""
    if method == "auto":
        return "matmul" if platform == "cpu" else "native"
    return method


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
    ``lax.scan``. The stride is folded into channels first. Two taps each way multiply every position at once, and the
    products are added up where they belong; with more of them too many positions lie past an edge, and what the taps
    see is laid out side by side instead.

    Args:
      x: ``[N, H, W, C]``, of the kernel's dtype or uint8.
      kernel: ``[size, size, C, features]``; ``size`` divisible by ``stride``.
      stride: of both axes.

    Returns:
      ``[N, (H - size) // stride + 1, (W - size) // stride + 1, features]``. Its gradients can be had backwards only
      (`jax.grad`, `jax.vjp`); forwards (`jax.jvp`) :func:`native_convolution` has them.
    """
    if not len(x):
        return native_convolution(x, kernel, stride)
    size, _, channels, features = kernel.shape
    # What no step of the stride reaches, is not looked at: of frames of 42 the last 2 pixels each way.
    height, width = ((side - size) // stride * stride + size for side in x.shape[1:3])
    if (height, width) != x.shape[1:3]:
        x = x[:, :height, :width]
    taps = size // stride
    kernel = kernel.reshape(taps, stride, taps, stride, channels, features)
    if _is_made_of_words(x, stride):
        x = _words_to_depth(x)
        kernel = kernel.transpose(0, 2, 4, 1, 3, 5)
    else:
        x = space_to_depth(x, stride)
        kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
    n, height, width, depth = x.shape
    x, kernel = x.astype(kernel.dtype), kernel.reshape(taps, taps, depth, features)
    if taps > 2:
        return _correlate_patches(x, kernel)
    flat = _correlate(x.reshape(-1, depth), kernel, width)
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
    """``y[p] = sum over i, j of x[p + i * width + j] @ kernel[i, j]``, or 0 where that is past the end.

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
    offsets = _offsets(taps, width)
    # The last positions look past the edge: padded once, and not tap by tap, the sum is one loop without branches.
    end = len(x) - offsets[-1]
    shifted = (
        products[offset : offset + end, tap * features : (tap + 1) * features] for tap, offset in enumerate(offsets)
    )
    return jnp.pad(functools.reduce(operator.add, shifted), ((0, offsets[-1]), (0, 0)))


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


@jax.custom_vjp
def _correlate_patches(x: Array, kernel: Array) -> Array:
    """``y[n, h, w] = sum over i, j of x[n, h + i, w + j] @ kernel[i, j]``, as one product of all taps.

    Args:
      x: ``[N, H, W, depth]``.
      kernel: ``[taps, taps, depth, features]``.

    Returns:
      ``[N, H - taps + 1, W - taps + 1, features]``.
    """
    return _correlate_patches_forward(x, kernel)[0]


def _correlate_patches_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    taps, _, _, features = kernel.shape
    n, height, width, _ = x.shape
    rows, columns = height - taps + 1, width - taps + 1
    seen = [x[:, row : row + rows, column : column + columns] for row in range(taps) for column in range(taps)]
    patches = jnp.concatenate(seen, axis=-1).reshape(n * rows * columns, -1)
    y = patches @ kernel.reshape(-1, features)
    return y.reshape(n, rows, columns, features), (patches, kernel)


def _correlate_patches_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    patches, kernel = saved
    taps, _, depth, features = kernel.shape
    n, rows, columns, _ = gradient.shape
    gradient = gradient.reshape(-1, features)
    of_kernel = lax.dot_general(patches, gradient, (((0,), (0,)), ((), ())))
    of_patches = lax.dot_general(gradient, kernel.reshape(-1, features), (((1,), (1,)), ((), ())))
    of_patches = of_patches.reshape(n, rows, columns, taps, taps, depth)
    past = taps - 1
    back = (
        jnp.pad(of_patches[:, :, :, row, column], ((0, 0), (row, past - row), (column, past - column), (0, 0)))
        for row in range(taps)
        for column in range(taps)
    )
    return functools.reduce(operator.add, back), of_kernel.reshape(kernel.shape)


_correlate_patches.defvjp(_correlate_patches_forward, _correlate_patches_backward)
