"""Compiled programs, read: loops, types, and what devices send to each other."""

import pytest

from jax_attn.training.sizing.collectives import by_kind, collectives
from jax_attn.training.sizing.hlo import Program
from jax_attn.training.sizing.roofline import memory_bytes

# A loop of 5 in a loop of 3, as TPUs print them: no trip count, layouts with tiles, axes of a mesh.
NESTED = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inner_condition (p: (s32[], f32[4,8])) -> pred[] {
  %p = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) parameter(0)
  %n = s32[]{:T(128)} constant(5)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%inner_body (p.1: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %p.1 = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  %x.1 = f32[4,8]{1,0:T(8,128)} get-tuple-element(%p.1), index=1
  %one = s32[] constant(1)
  %next = s32[] add(%i.1, %one)
  %reduced = f32[4,8]{1,0:T(8,128)} all-reduce(%x.1), replica_groups=mesh['a'=2,'b'=4] {'b'}, to_apply=%add
  ROOT %out.1 = (s32[], f32[4,8]) tuple(%next, %reduced)
}

%outer_condition (p.2: (s32[], f32[4,8])) -> pred[] {
  %p.2 = (s32[], f32[4,8]{1,0}) parameter(0)
  %i.2 = s32[] get-tuple-element(%p.2), index=0
  %n.2 = s32[] constant(8)
  ROOT %less.2 = pred[] compare(%i.2, %n.2), direction=LT
}

%outer_body (p.3: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %p.3 = (s32[], f32[4,8]{1,0}) parameter(0)
  %i.3 = s32[] get-tuple-element(%p.3), index=0
  %two = s32[] constant(2)
  %next.3 = s32[] add(%i.3, %two)
  %x.3 = f32[4,8]{1,0} get-tuple-element(%p.3), index=1
  %zero = s32[] constant(0)
  %start.3 = (s32[], /*index=1*/f32[4,8]{1,0}) tuple(%zero, %x.3)
  %loop.3 = (s32[], f32[4,8]{1,0}) while(%start.3), condition=%inner_condition, body=%inner_body
  %y.3 = f32[4,8]{1,0} get-tuple-element(%loop.3), index=1
  ROOT %out.3 = (s32[], f32[4,8]) tuple(%next.3, %y.3)
}

ENTRY %main (x: f32[4,8]) -> f32[4,8] {
  %x = f32[4,8]{1,0} parameter(0)
  %g = (f32[4,8]{1,0}, f32[32,8]{1,0}) all-gather-start(%x), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
  %gathered = f32[32,8]{1,0} all-gather-done(%g)
  %scattered = f32[4,8]{1,0} reduce-scatter(%gathered), replica_groups=[1,8]<=[8], dimensions={0}, to_apply=%add
  %turned = f32[4,8]{1,0} collective-permute(%scattered), source_target_pairs={{0,1},{1,0}}
  %two.4 = s32[] constant(2)
  %copied = s32[] copy(%two.4)
  %start = (s32[], f32[4,8]{1,0}) tuple(%copied, %turned)
  %loop = (s32[], f32[4,8]{1,0}) while(%start), condition=%outer_condition, body=%outer_body
  ROOT %y = f32[4,8]{1,0} get-tuple-element(%loop), index=1
}
"""
BYTES = 4 * 8 * 4


def test_loops_run_as_often_as_their_conditions_say():
    """From 2 to 8 by 2, and within it from 0 to 5 by 1."""
    program = Program.of(NESTED)
    assert program.entry == "main"
    assert program.runs["outer_body"] == 3
    assert program.runs["inner_body"] == 15
    assert not program.notes


def test_a_trip_count_that_the_compiler_tells_is_taken():
    told = NESTED.replace(
        "body=%outer_body", 'body=%outer_body, backend_config={"known_trip_count":{"n":"7"}}'
    )
    assert Program.of(told).runs["inner_body"] == 35


def test_a_loop_without_a_known_length_is_noted():
    program = Program.of(
        NESTED.replace("compare(%i.2, %n.2), direction=LT", "compare(%i.2, %i.2), direction=NE")
    )
    assert program.runs["inner_body"] == 5
    assert "counted once" in program.notes[0]


def test_collectives_by_kind_with_their_bytes():
    found = {(each.kind, each.group): each for each in by_kind(collectives(Program.of(NESTED), 8))}
    told = {key: (each.times, each.bytes, each.sent) for key, each in found.items()}
    assert told == {
        ("all-reduce", 4): (15, 15 * BYTES, 15 * BYTES * 2 * 3 / 4),
        ("all-gather", 8): (1, 8 * BYTES, 7 * BYTES),
        ("reduce-scatter", 8): (1, 8 * BYTES, 7 * BYTES),
        ("collective-permute", 8): (1, BYTES, BYTES),
    }


def test_a_collective_that_several_fusions_share_counts_once():
    part = """
%part{n} (p{n}: f32[4,8]) -> f32[32,8] {{
  %p{n} = f32[4,8]{{1,0}} parameter(0)
  ROOT %g{n} = f32[32,8]{{1,0}} all-gather(%p{n}), channel_id=3, replica_groups=[1,8]<=[8], a={{chain_id="1"}}
}}
"""
    entry = """
ENTRY %main (x: f32[4,8]) -> f32[32,8] {
  %x = f32[4,8]{1,0} parameter(0)
  %f0 = f32[32,8]{1,0} fusion(%x), kind=kCustom, calls=%part0
  ROOT %f1 = f32[32,8]{1,0} fusion(%x), kind=kCustom, calls=%part1
}
"""
    text = part.format(n=0) + part.format(n=1) + entry
    assert [each.times for each in collectives(Program.of(text), 8)] == [1]


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", 2),
        ("[2,4]<=[4,2]T(1,0)", 4),
        ("mesh['x'=2,'y'=4] {'x','y'}", 8),
        ("mesh['x'=8] {'x':(2)4}", 4),
        ("{}", 8),
    ],
)
def test_the_size_of_a_group(groups, size):
    text = f"""
ENTRY %main (x: f32[4,8]) -> f32[4,8] {{
  %x = f32[4,8]{{1,0}} parameter(0)
  ROOT %y = f32[4,8]{{1,0}} all-to-all(%x), replica_groups={groups}, dimensions={{0}}
}}
"""
    assert [each.group for each in collectives(Program.of(text), 8)] == [size]


def test_memory_that_is_moved():
    """Of a fusion that slices the slice, of one that updates in place the update, on the chip nothing."""
    text = """
%sliced (p: bf16[24,4,8], i: s32[]) -> bf16[4,8] {
  %p = bf16[24,4,8]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %slice = bf16[1,4,8]{2,1,0} dynamic-slice(%p, %i, %zero, %zero), dynamic_slice_sizes={1,4,8}
  ROOT %layer = bf16[4,8]{1,0} bitcast(%slice)
}

%updated (q: bf16[24,4,8], u: bf16[1,4,8], j: s32[]) -> bf16[24,4,8] {
  %q = bf16[24,4,8]{2,1,0} parameter(0)
  %u = bf16[1,4,8]{2,1,0} parameter(1)
  %j = s32[] parameter(2)
  %none = s32[] constant(0)
  ROOT %new = bf16[24,4,8]{2,1,0} dynamic-update-slice(%q, %u, %j, %none, %none)
}

ENTRY %main (w: bf16[24,4,8], u0: bf16[1,4,8]) -> bf16[24,4,8] {
  %w = bf16[24,4,8]{2,1,0} parameter(0)
  %u0 = bf16[1,4,8]{2,1,0} parameter(1)
  %k = s32[]{:T(128)S(6)} constant(3)
  %a = bf16[4,8]{1,0:T(8,128)(2,1)S(1)} fusion(%w, %k), kind=kLoop, calls=%sliced
  %b = bf16[4,8]{1,0} negate(%a)
  ROOT %c = bf16[24,4,8]{2,1,0} fusion(%w, %u0, %k), kind=kLoop, calls=%updated
}
"""
    layer = 4 * 8 * 2
    assert memory_bytes(Program.of(text)) == layer + layer + 2 * layer
