"""What is read off compiled programs, against small programs whose operations are known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from pd_jax.resources.plan import hlo
from pd_jax.resources.plan.hlo import RingShape

RINGS = {RingShape.of("u8", (8, 4096, 56, 128))}
FAST = "u8[8,4096,56,128]{3,2,1,0:T(8,128)(4,1)S(1)}"
RING = "u8[8,4096,56,128]{3,2,1,0:T(8,128)(4,1)}"


def program(*lines: str, inner: tuple[str, ...] = ()) -> str:
    body = "\n".join(f"  {line}" for line in lines)
    before = "\n".join(f"  {line}" for line in inner)
    fused = f"%fused (a: u8[8]) -> u8[8] {{\n{before}\n}}\n\n" if inner else ""
    return f"HloModule jit_f\n\n{fused}ENTRY %main (p: u8[8]) -> u8[8] {{\n{body}\n}}\n"


@pytest.mark.parametrize(
    ("lines", "inner", "copies"),
    [
        ((f"%c.1 = {RING} copy(%p)",), (), ["c.1"]),
        (("%t = u8[4096,8,56,128]{3,2,1,0} transpose(%p), dimensions={1,0,2,3}",), (), ["t"]),
        ((f"%s = ({RING}, {RING}, u32[]) copy-start(%p)", f"%d = {RING} copy-done(%s)"), (), ["s"]),
        ((f"%s = ({FAST}, {RING}, u32[]) copy-start(%p)",), (), []),
        ((f"%s = ({RING}, {FAST}, u32[]) copy-start(%p)",), (), []),
        ((f"%s = {FAST} copy(%p)", f"%t = {RING} copy(%s)"), (), []),
        ((f"%u = {RING} dynamic-update-slice(%p, %q, %i)",), (), []),
        (("%b = u8[1,8,4096,56,128]{4,3,2,1,0} bitcast(%p)", "%x = u8[64]{0} copy(%q)"), (), []),
        ((f"%f = {RING} fusion(%p), kind=kLoop, calls=%fused",), (f"ROOT %r = {RING} add(%a, %a)",), ["f"]),
        (
            (f"%f = {RING} fusion(%p), kind=kLoop, calls=%fused",),
            (f"%n = {RING} copy(%a)", f"ROOT %r = {RING} dynamic-update-slice(%a, %q, %i)"),
            [],
        ),
    ],
)
def test_only_what_writes_a_whole_ring_down_is_a_copy(
    lines: tuple[str, ...], inner: tuple[str, ...], copies: list[str]
) -> None:
    assert hlo.ring_copies(program(*lines, inner=inner), RINGS) == copies


def test_a_copy_onto_itself_is_none_where_there_is_no_room_for_another() -> None:
    lines = (f"%f = {RING} fusion(%p), kind=kLoop, calls=%fused", f"%c = {RING} copy(%f)", f"%d = {RING} copy(%p)")
    text = program(*lines, inner=(f"ROOT %r = {RING} dynamic-update-slice(%a, %q, %i)",))
    assert hlo.ring_copies(text, RINGS) == ["c", "d"]
    assert hlo.ring_copies(text, RINGS, has_room=False) == ["d"]


def test_traffic_of_a_loop_within_a_loop_counts_its_turns() -> None:
    text = """
%inner (a: f32[8]) -> f32[8] {
  ROOT %a1 = f32[8]{0} sort(%a)
}

%outer (b: f32[8]) -> f32[8] {
  %b1 = f32[8]{0} sort(%b)
  ROOT %w1 = f32[8]{0} while(%b1), condition=%more, body=%inner
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %p1 = f32[8]{0} sort(%p)
  ROOT %w = f32[8]{0} while(%p1), condition=%go_on, body=%outer
}
"""
    # The sort writes 32 bytes; what it reads is a parameter of its computation, which these lines do not define.
    assert hlo.traffic_bytes(text, set(), turns=4, parts=5) == 32 / 4 + 32 + 5 * 32


def test_traffic_is_that_of_the_memory_not_of_a_tpus_fast_one() -> None:
    lines = (
        "%p = f32[1000,128]{1,0:T(8,128)} parameter(0)",
        "%s = (f32[1000,128]{1,0:T(8,128)S(1)}, f32[1000,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%p)",
        "%d = f32[1000,128]{1,0:T(8,128)S(1)} copy-done(%s)",
        "%e = f32[1000,128]{1,0:T(8,128)S(1)} exponential(%d)",
        "%t = ((f32[1000,128]{1,0:T(8,128)}), f32[10,128]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%p)",
    )
    # Once into the fast memory whole, and ten rows of it; the exponential stays there.
    assert hlo.traffic_bytes(program(*lines), set()) == 4 * 128 * (1000 + 10)
    between = "%s = (f32[1000,128]{1,0:T(8,128)}, f32[1000,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%p)"
    assert hlo.traffic_bytes(program(lines[0], between), set()) == 2 * 4 * 128 * 1000


def test_all_reduces_are_told_with_their_bytes() -> None:
    text = program(
        "%r = f32[1000]{0} all-reduce(%p), replica_groups={}",
        "%s = (f32[7]{0}, f32[7]{0}) all-reduce-start(%p), replica_groups={}",
        "%d = f32[7]{0} all-reduce-done(%s)",
        "%v = (f32[3]{0}, bf16[4]{0}) all-reduce(%p, %q)",
        "%g = f32[8]{0} all-gather(%p)",
    )
    assert hlo.all_reduces(text) == [4000, 28, 20]
    assert hlo.other_collectives(text) == ["all-gather"]


def test_arithmetic_of_products_and_convolutions_is_that_of_their_formulas() -> None:
    def f(x: jax.Array, kernel: jax.Array, weights: jax.Array) -> jax.Array:
        y = lax.conv_general_dilated(x, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y.reshape(3, -1) @ weights

    x, kernel = jnp.zeros((3, 84, 84, 4)), jnp.zeros((8, 8, 4, 16))
    weights = jnp.zeros((20 * 20 * 16, 5))
    text = jax.jit(f).lower(x, kernel, weights).as_text()
    assert hlo.product_flops(text) == 2 * 3 * 20 * 20 * 16 * 8 * 8 * 4 + 2 * 3 * 6400 * 5
    batched = jax.jit(lambda a, b: jnp.einsum("gbi,gio->gbo", a, b)).lower(jnp.zeros((2, 3, 4)), jnp.zeros((2, 4, 5)))
    assert hlo.product_flops(batched.as_text()) == 2 * 2 * 3 * 4 * 5


def test_traffic_is_what_operations_read_and_write_and_of_a_ring_what_is_looked_up() -> None:
    x = np.ones(1000, np.float32)
    text = jax.jit(lambda x: lax.optimization_barrier(jnp.sort(x)) + 1).lower(x).compile().as_text()
    # A sort and a sum, each reads and writes 4,000 bytes.
    assert hlo.traffic_bytes(text, set()) == pytest.approx(16_000, rel=0.01)
    looked_up = program("%p = u8[8,4096,56,128]{3,2,1,0} parameter(0)", "%g = u8[32,56,128]{2,1,0} gather(%p, %i)")
    # Read from the ring, and written down.
    assert hlo.traffic_bytes(looked_up, RINGS) == 2 * 32 * 56 * 128
    assert hlo.count_operations(looked_up) == 1


def test_traffic_of_a_fusion_is_what_it_reads_of_its_operands() -> None:
    inner = (
        "%a = f32[1000000]{0} parameter(0)",
        "%b = f32[100]{0} parameter(1)",
        "%half = f32[1000000]{0} multiply(%a, %a)",
        "%part = f32[100]{0} slice(%half), slice={[7:107]}",
        "ROOT %sum = f32[100]{0} add(%part, %b)",
    )
    text = program("%f = f32[100]{0} fusion(%x, %y), kind=kLoop, calls=%fused", inner=inner)
    assert hlo.traffic_bytes(text, set()) == 3 * 400
    written = (
        "%a = f32[1000000]{0} parameter(0)",
        "%b = f32[100]{0} parameter(1)",
        "%at = s32[] parameter(2)",
        "ROOT %u = f32[1000000]{0} dynamic-update-slice(%a, %b, %at)",
    )
    text = program("%f = f32[1000000]{0} fusion(%x, %y, %i), kind=kLoop, calls=%fused", inner=written)
    assert hlo.traffic_bytes(text, set()) == 2 * 400 + 4
    # A reduction reads all of it.
    read = ("%a = f32[1000000]{0} parameter(0)", "ROOT %s = f32[] reduce(%a, %zero), to_apply=%add")
    text = program("%f = f32[] fusion(%x), kind=kInput, calls=%fused", inner=read)
    assert hlo.traffic_bytes(text, set()) == 4_000_004


def test_traffic_of_branches_is_their_mean_and_what_surrounds_a_loop_is_shared_by_its_turns() -> None:
    text = """
%dear (a: f32[8]) -> f32[1000] {
  %a = f32[8]{0} parameter(0)
  ROOT %b = f32[1000]{0} sort(%a)
}

%cheap (c: f32[8]) -> f32[1000] {
  %c = f32[8]{0} parameter(0)
  ROOT %d = f32[1000]{0} constant(0)
}

%body (e: f32[8]) -> f32[8] {
  %e = f32[8]{0} parameter(0)
  %n = f32[1000]{0} conditional(%i, %e, %e), branch_computations={%dear, %cheap}
  ROOT %r = f32[8]{0} slice(%n), slice={[0:8]}
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %s = f32[8]{0} sort(%p)
  ROOT %w = f32[8]{0} while(%s), condition=%go_on, body=%body
}
"""
    # Half of the sort of 8 into 1,000; all of the slice; a quarter of the sort before the loop.
    assert hlo.traffic_bytes(text, set(), turns=4) == (32 + 4000) / 2 + 2 * 32 + (2 * 32) / 4


def test_the_cpus_update_of_a_ring_in_place_is_seen_to_copy_nothing_and_one_without_donation_to_copy() -> None:
    ring, rows = jnp.zeros((64, 512)), jnp.ones((1, 512))

    def write(ring: jax.Array, rows: jax.Array, at: jax.Array) -> jax.Array:
        return lax.dynamic_update_slice(ring, rows, (at, 0))

    rings = {RingShape.of("f32", (64, 512))}
    donated = jax.jit(write, donate_argnums=0).lower(ring, rows, 3).compile().as_text()
    kept = jax.jit(write).lower(ring, rows, 3).compile().as_text()
    assert (len(hlo.ring_copies(donated, rings)), len(hlo.ring_copies(kept, rings))) == (0, 1)
