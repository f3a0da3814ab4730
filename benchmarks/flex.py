"""FlexAttention: ours beside torch's compiled one, and beside itself with other masks."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import torch_side
from benchmarks.attention import random_operands
from benchmarks.cases import Shape
from benchmarks.comparison import Comparison, contest
from benchmarks.contender import Contender, jitted
from jax_attn.functional.attention import dot_product_attention
from jax_attn.functional.block_mask import create_block_mask
from jax_attn.functional.flex import flex_attention
from jax_attn.functional.score_mods import alibi_slopes

FLEX, DOT_PRODUCT, TORCH, WHOLE = "jax-attn flex", "dot_product", "torch flex, compiled", "flex, causal"
Mod = Callable[..., Any]  # of scores or of a mask, for arrays of either framework

NAMES = (FLEX, DOT_PRODUCT, TORCH, WHOLE)
SHAPE = Shape(1, 4096, 12, 64)
WINDOW = 256  # keys that a query sees, itself among them
DOCUMENT = 512  # tokens in each of the packed documents

# Who sees whom; written once, for both frameworks.
MASKS: dict[str, Mod] = {
    "causal": lambda b, h, q_idx, kv_idx: q_idx >= kv_idx,
    "local": lambda b, h, q_idx, kv_idx: (q_idx >= kv_idx) & (q_idx - kv_idx < WINDOW),
    "documents": lambda b, h, q_idx, kv_idx: (q_idx // DOCUMENT == kv_idx // DOCUMENT) & (q_idx >= kv_idx),
}


def bench_flex(shape: Shape = SHAPE, *, compile_torch: bool = True, rounds: int = 7) -> Iterator[Comparison]:
    """Time FlexAttention on random numbers, in float32, forward.

    The mods are written once, and run in both frameworks as they are.

    Args:
        shape: of queries, keys and values. The window is looked at with twice as many tokens.
        compile_torch: let torch's FlexAttention, compiled, take part; it needs a C++ compiler.
        rounds: how often each contender is timed.
    """
    longer = shape._replace(tokens=2 * shape.tokens)
    slopes = alibi_slopes(shape.heads).tolist()
    cases = (
        ("causal", shape, None, MASKS["causal"], (DOT_PRODUCT,)),
        ("causal+ALiBi", shape, slopes, MASKS["causal"], ()),
        (f"documents of {DOCUMENT}", shape, None, MASKS["documents"], ()),
        (f"window {WINDOW}", longer, None, MASKS["local"], (WHOLE,)),
    )
    for name, size, slopes, mask_mod, beside in cases:
        contenders, left_out = _contenders(size, slopes, mask_mod, beside, compile_torch)
        yield contest(f"{size} {name}, forward", contenders, rounds=rounds, left_out=left_out)


def _alibi(slopes: Any) -> Mod:
    """A penalty that grows with the distance, by a slope for each head; Press et al. (arXiv 2108.12409)."""
    return lambda score, b, h, q_idx, kv_idx: score + slopes[h] * (kv_idx - q_idx)


def _contenders(
    shape: Shape, slopes: list[float] | None, mask_mod: Mod, beside: tuple[str, ...], compile_torch: bool
) -> tuple[dict[str, Contender], dict[str, str]]:
    operands = random_operands(shape, "float32")
    found = {FLEX: jitted(_ours(shape, slopes, mask_mod), *operands)}
    if DOT_PRODUCT in beside:
        found[DOT_PRODUCT] = jitted(lambda q, k, v: dot_product_attention(q, k, v, is_causal=True), *operands)
    left_out = {}
    if compile_torch:
        try:
            found[TORCH] = _torch(shape, slopes, mask_mod, operands)
        except Exception as error:  # no compiler, or one that torch cannot use: the rest is worth measuring
            left_out[TORCH] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    if WHOLE in beside:  # another mask, so its results are not compared
        whole = jitted(_ours(shape, None, MASKS["causal"]), *operands)
        found[WHOLE] = Contender(whole.run, temporaries=whole.temporaries)
    return found, left_out


def _ours(shape: Shape, slopes: list[float] | None, mask_mod: Mod) -> Callable[..., jax.Array]:
    block_mask = create_block_mask(mask_mod, None, None, shape.tokens, shape.tokens)
    score_mod = None if slopes is None else _alibi(jnp.asarray(slopes))
    return lambda q, k, v: flex_attention(q, k, v, score_mod, block_mask)


def _torch(shape: Shape, slopes: list[float] | None, mask_mod: Mod, operands: list[jax.Array]) -> Contender:
    """torch's FlexAttention, compiled; raises what torch raises where it cannot be."""
    import torch
    from torch.nn.attention import flex_attention as flex

    torch._dynamo.reset()
    device = torch_side.device()
    mask = flex.create_block_mask(mask_mod, None, None, shape.tokens, shape.tokens, device=device)
    score_mod = None if slopes is None else _alibi(torch.tensor(slopes, device=device))
    compiled = torch.compile(flex.flex_attention)
    tensors = [torch_side.heads_first(x, "float32") for x in operands]
    contender = torch_side.eager(
        lambda q, k, v: compiled(q, k, v, score_mod=score_mod, block_mask=mask),
        *tensors,
        back=lambda x: x.transpose(1, 2),
    )
    contender.run()  # compiles, or raises
    return contender
