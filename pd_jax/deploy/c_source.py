"""The C99 that layers are written in: functions, each of which is written once where it is needed, and calls of them.

Sums of floats go over 16 outputs side by side, for which the weights are stored in that order: compilers make vector
instructions of that. Sums of integers go over the inputs of four outputs, for which processors have instructions.
Neither depends on them: any C99 compiler takes it, and any C++ compiler.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pd_jax.deploy.layers import (
    NORM_EPSILON,
    Activation,
    Bits,
    Convolution,
    Dense,
    Expectation,
    Flatten,
    LayerNorm,
    MaxPool,
    Normalise,
    Residual,
)
from pd_jax.deploy.quantised import Integers, Quantise
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError

BLOCK = 16
"""Outputs side by side."""
_ROWS = 4
_PER_LINE = 16

_ROLLED = """/* GCC's -O3 would unroll the loop over the outputs before it makes vectors of it. */
#if defined(__GNUC__) && !defined(__clang__)
#define @ROLLED _Pragma("GCC unroll 1")
#else
#define @ROLLED
#endif"""

_DENSE = """/* y[n] = x[k] w + b; weights in blocks of 16 outputs, k times 16 each; what is left is k times the rest. */
static inline void @dense(const float *x, int k, const float *w, const float *b, int n, float *y)
{
  const int rest = n % 16, whole = n - rest;
  int o, i, c;
  for (o = 0; o < whole; o += 16, w += k * 16) {
    float s0[16], s1[16], s2[16], s3[16];
    for (c = 0; c < 16; c++) {
      s0[c] = b[o + c];
      s1[c] = s2[c] = s3[c] = 0.0f;
    }
    for (i = 0; i < k - k % 4; i += 4) {
      const float *r = w + i * 16;
      const float x0 = x[i], x1 = x[i + 1], x2 = x[i + 2], x3 = x[i + 3];
      @ROLLED
      for (c = 0; c < 16; c++) {
        s0[c] += x0 * r[c];
        s1[c] += x1 * r[16 + c];
        s2[c] += x2 * r[32 + c];
        s3[c] += x3 * r[48 + c];
      }
    }
    for (i = k - k % 4; i < k; i++) {
      @ROLLED
      for (c = 0; c < 16; c++) s0[c] += x[i] * w[i * 16 + c];
    }
    for (c = 0; c < 16; c++) y[o + c] = (s0[c] + s1[c]) + (s2[c] + s3[c]);
  }
  for (c = 0; c < rest; c++) {
    float s = b[whole + c];
    for (i = 0; i < k; i++) s += x[i] * w[i * rest + c];
    y[whole + c] = s;
  }
}"""

_PRODUCTS = """/* The same for four x at once: x[4][k], y[4][n]. */
static inline void @products(const float *x, int k, const float *w, const float *b, int n, float *y)
{
  const int rest = n % 16, whole = n - rest;
  int o, i, c;
  for (o = 0; o < whole; o += 16, w += k * 16) {
    float s0[16], s1[16], s2[16], s3[16];
    for (c = 0; c < 16; c++) s0[c] = s1[c] = s2[c] = s3[c] = b[o + c];
    for (i = 0; i < k; i++) {
      const float *r = w + i * 16;
      const float x0 = x[i], x1 = x[k + i], x2 = x[2 * k + i], x3 = x[3 * k + i];
      @ROLLED
      for (c = 0; c < 16; c++) {
        s0[c] += x0 * r[c];
        s1[c] += x1 * r[c];
        s2[c] += x2 * r[c];
        s3[c] += x3 * r[c];
      }
    }
    for (c = 0; c < 16; c++) {
      y[o + c] = s0[c];
      y[n + o + c] = s1[c];
      y[2 * n + o + c] = s2[c];
      y[3 * n + o + c] = s3[c];
    }
  }
  for (c = 0; c < rest; c++) {
    float s0 = b[whole + c], s1 = s0, s2 = s0, s3 = s0;
    for (i = 0; i < k; i++) {
      const float r = w[i * rest + c];
      s0 += x[i] * r;
      s1 += x[k + i] * r;
      s2 += x[2 * k + i] * r;
      s3 += x[3 * k + i] * r;
    }
    y[whole + c] = s0;
    y[n + whole + c] = s1;
    y[2 * n + whole + c] = s2;
    y[3 * n + whole + c] = s3;
  }
}"""

_PATCH = """/* What one place of a convolution sees: size x size x channels from a row and a column on. */
static inline void @patch_<in>_<out>(const <in> *x, int width, int channels, int size, int row, int column,
                                     <out> *patch)
{
  const int length = size * channels;
  int r, i;
  for (r = 0; r < size; r++) {
    const <in> *from = x + ((row + r) * width + column) * channels;
    for (i = 0; i < length; i++) patch[r * length + i] = from[i];
  }
}"""

_PADDED_PATCH = """/* What one place of a convolution sees, zeros where it looks over the edge. */
static inline void @padded_patch_<in>_<out>(const <in> *x, int height, int width, int channels, int size, int row,
                                        int column, <out> zero, <out> *patch)
{
  int r, c, i;
  for (r = row; r < row + size; r++)
    for (c = column; c < column + size; c++) {
      const int inside = r >= 0 && r < height && c >= 0 && c < width;
      for (i = 0; i < channels; i++) *patch++ = inside ? x[(r * width + c) * channels + i] : zero;
    }
}"""

_CONVOLVE = """/* A convolution, four places at a time; the last four may begin among those before. */
static inline void @convolve_<in>_<variant>(const <in> *x, int height, int width, int channels, int size, int stride,
                                        int before, const float *w, const float *b, int rows, int columns, int n,
                                        float *y)
{
  float patches[4 * @LONGEST_PATCH];
  const int k = size * size * channels, places = rows * columns;
  int first, p;
  (void)height;
  for (first = 0; first < places; first += 4) {
    if (first > places - 4) first = places - 4;
    for (p = 0; p < 4; p++) {
      const int row = (first + p) / columns * stride - before, column = (first + p) % columns * stride - before;
      <patch>;
    }
    @products(patches, k, w, b, n, y + first * n);
  }
}"""

_POOL = """/* Maxima of size x size windows. */
static inline void @pool(const float *x, int height, int width, int channels, int size, int stride, int before,
                         int rows, int columns, float *y)
{
  int row, column, r, c, i;
  for (row = 0; row < rows; row++)
    for (column = 0; column < columns; column++, y += channels)
      for (i = 0; i < channels; i++) {
        float best = -INFINITY;
        for (r = row * stride - before; r < row * stride - before + size; r++)
          for (c = column * stride - before; c < column * stride - before + size; c++)
            if (r >= 0 && r < height && c >= 0 && c < width && x[(r * width + c) * channels + i] > best)
              best = x[(r * width + c) * channels + i];
        y[i] = best;
      }
}"""

_NORM = """/* Mean 0 and variance 1 over n features, then a scale and a bias for each. */
static inline void @norm(float *x, int count, int n, const float *scale, const float *bias)
{
  int i;
  for (; count > 0; count--, x += n) {
    float mean = 0.0f, variance = 0.0f, factor;
    for (i = 0; i < n; i++) mean += x[i];
    mean /= (float)n;
    for (i = 0; i < n; i++) variance += (x[i] - mean) * (x[i] - mean);
    factor = 1.0f / sqrtf(variance / (float)n + <epsilon>);
    for (i = 0; i < n; i++) x[i] = (x[i] - mean) * factor * scale[i] + bias[i];
  }
}"""

_ACTIVATIONS = {
    "relu": "x > 0.0f ? x : 0.0f",
    "tanh": "tanhf(x)",
    "elu": "x > 0.0f ? x : expm1f(x)",
    "leaky_relu": "x > 0.0f ? x : 0.01f * x",
    "silu": "x / (1.0f + expf(-x))",
    "gelu": "0.5f * x * (1.0f + erff(x * 0.70710678f))",
}
_ACTIVATION = """static inline void @<name>(float *y, int count)
{
  int i;
  for (i = 0; i < count; i++) {
    const float x = y[i];
    y[i] = <formula>;
  }
}"""

_ADD = """static inline void @add(float *x, const float *y, int count)
{
  int i;
  for (i = 0; i < count; i++) x[i] += y[i];
}"""

_EXPECTATION = """/* Means of distributions over atoms, one for each action. */
static inline void @expectation(const float *x, int actions, int atoms, const float *support, float *y)
{
  int a, i;
  for (a = 0; a < actions; a++, x += atoms) {
    float most = x[0], total = 0.0f, sum = 0.0f;
    for (i = 1; i < atoms; i++) if (x[i] > most) most = x[i];
    for (i = 0; i < atoms; i++) {
      const float weight = expf(x[i] - most);
      total += weight;
      sum += weight * support[i];
    }
    y[a] = sum / total;
  }
}"""

_UNIT = """/* The whole number nearest to v, of two the even one, plus zero; between low and high, low for NaN.
   The last bits of 2^23 + zero + v hold it. */
static inline uint8_t @unit(float v, float low, float high, float zero)
{
  uint32_t bits;
  v = v > low ? v : low;
  v = v < high ? v : high;
  v += 8388608.0f + zero;
  memcpy(&bits, &v, 4);
  return (uint8_t)(bits & 255u);
}"""

_QUANTISE = """/* Floats as units: 0 to 255, or -127 to 127 with 128 added. */
static inline void @quantise(const float *x, const float *factors, int step, int is_signed, int count, uint8_t *y)
{
  const float low = is_signed ? -127.0f : 0.0f, high = is_signed ? 127.0f : 255.0f, zero = is_signed ? 128.0f : 0.0f;
  int i;
  for (i = 0; i < count; i++) y[i] = @unit(x[i] * factors[i * step], low, high, zero);
}"""

_SUMS = """/* y[n] = x[k] w + b in integers; weights as n times k. */
static inline void @sums(const uint8_t *x, int k, const int8_t *w, const int32_t *b, int n, int32_t *y)
{
  const int whole = n - n % 4;
  int o, i;
  for (o = 0; o < whole; o += 4, w += 4 * k) {
    int32_t s0 = b[o], s1 = b[o + 1], s2 = b[o + 2], s3 = b[o + 3];
    for (i = 0; i < k; i++) {
      const int32_t v = x[i];
      s0 += v * w[i];
      s1 += v * w[k + i];
      s2 += v * w[2 * k + i];
      s3 += v * w[3 * k + i];
    }
    y[o] = s0;
    y[o + 1] = s1;
    y[o + 2] = s2;
    y[o + 3] = s3;
  }
  for (o = whole; o < n; o++, w += k) {
    int32_t s = b[o];
    for (i = 0; i < k; i++) s += (int32_t)x[i] * w[i];
    y[o] = s;
  }
}"""

_TO_UNITS = """/* Sums as the next layer's units, after a ReLU. */
static inline void @to_uint8_t(const int32_t *sums, const float *factors, int n, uint8_t *y)
{
  int o;
  for (o = 0; o < n; o++) y[o] = @unit((float)sums[o] * factors[o], 0.0f, 255.0f, 0.0f);
}"""

_TO_FLOATS = """static inline void @to_float(const int32_t *sums, const float *factors, int n, float *y)
{
  int o;
  for (o = 0; o < n; o++) y[o] = (float)sums[o] * factors[o];
}"""

_INTEGER_DENSE = """static inline void @integer_dense_<out>(const uint8_t *x, int k, const int8_t *w, const int32_t *b,
                                             const float *factors, int n, <out> *y)
{
  int32_t sums[@MOST_SUMS];
  @sums(x, k, w, b, n, sums);
  @to_<out>(sums, factors, n, y);
}"""

_INTEGER_CONVOLVE = """/* A convolution in integers. */
static inline void @integer_convolve_<variant>_<out>(const uint8_t *x, int height, int width, int channels, int size,
                                                 int stride, int before, int zero, const int8_t *w, const int32_t *b,
                                                 const float *factors, int rows, int columns, int n, <out> *y)
{
  uint8_t patch[@LONGEST_PATCH];
  int place;
  (void)height;
  (void)zero;
  for (place = 0; place < rows * columns; place++) {
    const int row = place / columns * stride - before, column = place % columns * stride - before;
    <patch>;
    @integer_dense_<out>(patch, size * size * channels, w, b, factors, n, y + place * n);
  }
}"""


def numbers(values: np.ndarray) -> str:
    """An array's values as C has them, as exact as they are, in lines."""
    flat = np.asarray(values).reshape(-1)
    if flat.dtype.kind == "f":
        if not np.isfinite(flat).all():
            raise UserError("format: c: a weight is not a finite number")
        words = [f"{value:.9g}" for value in flat.tolist()]
    else:
        words = [str(value) for value in flat.tolist()]
    return "".join(",".join(words[at : at + _PER_LINE]) + ",\n" for at in range(0, len(words), _PER_LINE))


def blocks(kernel: np.ndarray) -> np.ndarray:
    """A kernel ``[k, n]`` as the C for floats reads it: blocks of 16 outputs, and what is left."""
    whole = kernel.shape[1] // BLOCK * BLOCK
    parts = [kernel[:, at : at + BLOCK].reshape(-1) for at in range(0, whole, BLOCK)]
    return np.concatenate([*parts, kernel[:, whole:].reshape(-1)])


class Source:
    """C for layers, one after another, each taking what the one before made.

    Args:
      prefix: of all names.
      task: whose observations come in and whose actions go out.
    """

    def __init__(self, prefix: str, task: Task) -> None:
        self.prefix, self.task = prefix, task
        self._functions: dict[str, str] = {}
        self._constants: list[str] = []
        self._calls: list[str] = []
        # By the name of a buffer: its type, and the most values that it holds.
        self._buffers: dict[str, tuple[str, int]] = {}
        self._sizes = {"LONGEST_PATCH": 0, "MOST_SUMS": 0}
        self._type = "uint8_t" if task.kind == "atari" else "float"
        self._shown = "frames" if task.kind == "atari" else "observation"
        self._name = self._shown
        self._shape: tuple[int, ...] = task.observation_shape
        # What a residual connection still needs.
        self._kept: list[str] = []

    @property
    def stack_bytes(self) -> int:
        """About what a call needs: of buffers, sums and patches."""
        sizes = {"float": 4, "uint8_t": 1}
        own = sum(sizes[kind] * count for kind, count in self._buffers.values()) + 4 * self._sizes["MOST_SUMS"]
        is_float = "products" in self._functions
        return own + self._sizes["LONGEST_PATCH"] * (4 * _ROWS if is_float else 1)

    def lines(self) -> list[str]:
        """The header's own: all but comments and its guard."""
        assert self._type == "float"
        prefix, task = self.prefix, self.task
        kind = "uint8_t" if task.kind == "atari" else "float"
        used = {name: size for name, size in self._sizes.items() if size}
        functions = self._functions
        if any("@ROLLED" in text for text in functions.values()):
            functions = {"rolled": _ROLLED, **functions}
        return [
            "#include <math.h>",
            "#include <stdint.h>",
            "#include <string.h>",
            "",
            f"#define {prefix.upper()}_ACTIONS {task.num_actions}",
            f"#define {prefix.upper()}_OBSERVATION {int(np.prod(task.observation_shape))}",
            *[f"#define {prefix.upper()}_{name} {size}" for name, size in used.items()],
            "",
            *self._constants,
            *[self._named(text) + "\n" for text in functions.values()],
            f"static inline int {prefix}_act(const {kind} *{self._shown}, float *outputs)",
            "{",
            *[f"  {kind} {name}[{count}];" for name, (kind, count) in self._buffers.items()],
            "  int action = 0, i;",
            *[f"  {call}" for call in self._calls],
            f"  memcpy(outputs, {self._name}, {task.num_actions} * sizeof(float));",
            f"  for (i = 1; i < {task.num_actions}; i++) if (outputs[i] > outputs[action]) action = i;",
            "  return action;",
            "}",
        ]

    @functools.singledispatchmethod
    def write(self, layer: Any) -> None:
        """Adds a layer."""
        raise UserError(f"format: c has no {type(layer).__name__}")

    @write.register
    def _(self, layer: Convolution) -> None:
        size, _, channels, outputs = layer.kernel.shape
        rows, columns = self._places(layer.kernel, layer.stride, layer.padding)
        if rows == columns == 1 and not any(layer.padding):
            # It sees all that there is, once.
            self.write(Flatten())
            self.write(Dense(layer.kernel.reshape(-1, outputs), layer.bias))
            self._shape = (1, 1, outputs)
            return
        assert rows * columns >= _ROWS
        self._sizes["LONGEST_PATCH"] = max(self._sizes["LONGEST_PATCH"], size * size * channels)
        variant, patch = self._patch(self._type, "float", layer.padding, "patches + p * k", "0.0f")
        self._need("products", _PRODUCTS)
        function = f"convolve_{self._type}_{variant}"
        self._need(function, _CONVOLVE, {"in": self._type, "variant": variant, "patch": patch})
        weights = self._constant("float", blocks(layer.kernel.reshape(-1, outputs)))
        bias = self._constant("float", layer.bias)
        height, width = self._shape[:2]
        taken = f"{self._name}, {height}, {width}, {channels}, {size}, {layer.stride}, {layer.padding[0]}"
        made = self._buffer("float", (rows, columns, outputs))
        self._call(f"{function}({taken}, {weights}, {bias}, {rows}, {columns}, {outputs}, {made})")

    @write.register
    def _(self, layer: MaxPool) -> None:
        height, width, channels = self._shape
        rows, columns = -(-height // layer.stride), -(-width // layer.stride)
        self._need("pool", _POOL)
        taken = f"{self._name}, {height}, {width}, {channels}, {layer.size}, {layer.stride}, {layer.before}"
        made = self._buffer("float", (rows, columns, channels))
        self._call(f"pool({taken}, {rows}, {columns}, {made})")

    @write.register
    def _(self, layer: Residual) -> None:
        before, shape = self._name, self._shape
        self._kept.append(before)
        for inner in layer.layers:
            self.write(inner)
        self._kept.remove(before)
        assert shape == self._shape
        self._need("add", _ADD)
        self._call(f"add({self._name}, {before}, {self._count})")

    @write.register
    def _(self, layer: LayerNorm) -> None:
        self._need("norm", _NORM, {"epsilon": f"{NORM_EPSILON:g}f"})
        self._own()
        features = len(layer.scale)
        scale, bias = self._constant("float", layer.scale), self._constant("float", layer.bias)
        self._call(f"norm({self._name}, {self._count // features}, {features}, {scale}, {bias})")

    @write.register
    def _(self, layer: Activation) -> None:
        self._need(layer.name, _ACTIVATION, {"name": layer.name, "formula": _ACTIVATIONS[layer.name]})
        self._own()
        self._call(f"{layer.name}({self._name}, {self._count})")

    @write.register
    def _(self, layer: Flatten) -> None:
        self._shape = (self._count,)

    @write.register
    def _(self, layer: Dense) -> None:
        inputs, outputs = layer.kernel.shape
        self._need("dense", _DENSE)
        weights, bias = self._constant("float", blocks(layer.kernel)), self._constant("float", layer.bias)
        taken = self._name
        made = self._buffer("float", (outputs,))
        self._call(f"dense({taken}, {inputs}, {weights}, {bias}, {outputs}, {made})")

    @write.register
    def _(self, layer: Bits) -> None:
        factors, taken, size = self._constant("float", layer.factors), self._name, len(layer.factors)
        made = self._buffer("float", (8 * size,))
        self._calls += [
            f"for (i = 0; i < {8 * size}; i++) {{",
            f"  float byte = {taken}[i / 8] * 255.0f + 0.5f;",
            "  int whole = byte < 0.0f ? 0 : byte > 255.0f ? 255 : (int)byte;",
            f"  {made}[i] = (whole >> (7 - i % 8)) & 1 ? {factors}[i / 8] : -{factors}[i / 8];",
            "}",
        ]

    @write.register
    def _(self, layer: Normalise) -> None:
        taken, count = self._name, self._count
        terms = [
            f"{self._constant('float', value)}[{'i' if len(value) > 1 else '0'}]"
            for value in (layer.mean, layer.mean_rest, layer.deviation)
        ]
        made = self._buffer("float", (count,))
        change = f"{made}[i] = (({taken}[i] - {terms[0]}) - {terms[1]}) / {terms[2]};"
        if layer.clip is None:
            self._calls.append(f"for (i = 0; i < {count}; i++) {change}")
            return
        bound = f"{float(layer.clip)!r}f"
        self._calls += [
            f"for (i = 0; i < {count}; i++) {{",
            f"  {change}",
            f"  if ({made}[i] > {bound}) {made}[i] = {bound};",
            f"  if ({made}[i] < -{bound}) {made}[i] = -{bound};",
            "}",
        ]

    @write.register
    def _(self, layer: Expectation) -> None:
        atoms = len(layer.support)
        actions = self._count // atoms
        self._need("expectation", _EXPECTATION)
        support, taken = self._constant("float", layer.support), self._name
        made = self._buffer("float", (actions,))
        self._call(f"expectation({taken}, {actions}, {atoms}, {support}, {made})")

    @write.register
    def _(self, step: Quantise) -> None:
        self._need("unit", _UNIT)
        self._need("quantise", _QUANTISE)
        factors, each = self._constant("float", step.factors), int(len(step.factors) > 1)
        taken, count = self._name, self._count
        made = self._buffer("uint8_t", self._shape)
        self._call(f"quantise({taken}, {factors}, {each}, {int(step.is_signed)}, {count}, {made})")

    @write.register
    def _(self, step: Integers) -> None:
        outputs = len(step.bias)
        kind = "float" if step.units_scale is None else "uint8_t"
        kernel = step.weights.reshape(-1, outputs)
        # What was added to the units is taken from the sums.
        zero = 128 if step.is_signed else 0
        offsets = step.bias - zero * kernel.sum(axis=0, dtype=np.int64)
        weights, bias = self._constant("int8_t", kernel.T), self._constant("int32_t", offsets)
        factors = self._constant("float", step.factors)
        self._need("sums", _SUMS)
        if kind == "uint8_t":
            self._need("unit", _UNIT)
        self._need(f"to_{kind}", _TO_FLOATS if kind == "float" else _TO_UNITS)
        self._need(f"integer_dense_{kind}", _INTEGER_DENSE, {"out": kind})
        self._sizes["MOST_SUMS"] = max(self._sizes["MOST_SUMS"], outputs)
        taken = self._name
        if step.weights.ndim == 2:
            made = self._buffer(kind, (outputs,))
            self._call(f"integer_dense_{kind}({taken}, {len(kernel)}, {weights}, {bias}, {factors}, {outputs}, {made})")
            return
        size, _, channels, _ = step.weights.shape
        height, width = self._shape[:2]
        rows, columns = self._places(step.weights, step.stride, step.padding)
        self._sizes["LONGEST_PATCH"] = max(self._sizes["LONGEST_PATCH"], len(kernel))
        variant, patch = self._patch("uint8_t", "uint8_t", step.padding, "patch", "(uint8_t)zero")
        function = f"integer_convolve_{variant}_{kind}"
        self._need(function, _INTEGER_CONVOLVE, {"variant": variant, "out": kind, "patch": patch})
        made = self._buffer(kind, (rows, columns, outputs))
        self._call(
            f"{function}({taken}, {height}, {width}, {channels}, {size}, {step.stride}, {step.padding[0]}, {zero}, "
            f"{weights}, {bias}, {factors}, {rows}, {columns}, {outputs}, {made})"
        )

    @property
    def _count(self) -> int:
        return int(np.prod(self._shape))

    def _places(self, kernel: np.ndarray, stride: int, padding: tuple[int, int]) -> tuple[int, int]:
        rows, columns = ((length + sum(padding) - len(kernel)) // stride + 1 for length in self._shape[:2])
        return rows, columns

    def _patch(self, taken: str, kind: str, padding: tuple[int, int], where: str, zero: str) -> tuple[str, str]:
        """The variant of a convolution by its padding, and the call that gathers what a place sees."""
        if not any(padding):
            self._need(f"patch_{taken}_{kind}", _PATCH, {"in": taken, "out": kind})
            return "valid", f"@patch_{taken}_{kind}(x, width, channels, size, row, column, {where})"
        self._need(f"padded_patch_{taken}_{kind}", _PADDED_PATCH, {"in": taken, "out": kind})
        call = f"@padded_patch_{taken}_{kind}(x, height, width, channels, size, row, column, {zero}, {where})"
        return "padded", call

    def _own(self) -> None:
        """The current values in a buffer that may be changed: neither the caller's nor what is kept."""
        if self._name == self._shown or self._name in self._kept:
            taken = self._name
            made = self._buffer("float", self._shape)
            self._calls.append(f"memcpy({made}, {taken}, {self._count} * sizeof(float));")

    def _buffer(self, kind: str, shape: Sequence[int]) -> str:
        """A buffer that holds nothing that is still needed; it becomes the current one."""
        short = {"float": "floats", "uint8_t": "units"}[kind]
        taken = {self._name, *self._kept}
        name = next(name for name in (f"{short}{index}" for index in range(1, 9)) if name not in taken)
        count = int(np.prod(shape))
        self._buffers[name] = (kind, max(count, self._buffers.get(name, (kind, 0))[1]))
        self._name, self._type, self._shape = name, kind, tuple(shape)
        return name

    def _constant(self, kind: str, values: np.ndarray) -> str:
        name = f"{self.prefix}_{len(self._constants) + 1}"
        values = np.asarray(values, np.float32) if kind == "float" else np.asarray(values)
        self._constants.append(f"static const {kind} {name}[{values.size}] = {{\n{numbers(values)}}};\n")
        return name

    def _need(self, name: str, text: str, words: Mapping[str, str] | None = None) -> None:
        """Has the header hold a function, after those that it calls."""
        for word, value in (words or {}).items():
            text = text.replace(f"<{word}>", value)
        self._functions.setdefault(name, text)

    def _call(self, text: str) -> None:
        self._calls.append(f"{self.prefix}_{text};")

    def _named(self, text: str) -> str:
        for name in ("ROLLED", *self._sizes):
            text = text.replace(f"@{name}", f"{self.prefix.upper()}_{name}")
        return text.replace("@", f"{self.prefix}_")
