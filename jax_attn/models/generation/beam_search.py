"""The likeliest text, looked for among a few at a time."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer

from jax_attn.functional.checks import require_known, require_positive
from jax_attn.functional.dtypes import accumulator
from jax_attn.models.generation.prompt import as_argument, next_logits, prepare, token_list, without_dropout

EARLY_STOPPING = (False, True, "never")


class Beams(NamedTuple):
    """What `beam_search` returns: the texts of each row, the best first.

    Attributes:
        tokens: `(b, num_beams, n)`, the new tokens, with `pad_token_id` behind a stop token.
        lengths: `(b, num_beams)`, how many there are, the stop token among them.
        scores: `(b, num_beams)`, `log P(text) / penalty(length)`; -inf where fewer texts were found.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    scores: np.ndarray


class _Texts(NamedTuple):
    """Some texts of each row.

    Attributes:
        tokens: `(b, k, n)`.
        lengths: `(b, k)`.
        scores: `(b, k)`; -inf where there is no text.
    """

    tokens: Array
    lengths: Array
    scores: Array


class _Search(NamedTuple):
    """A search on its way.

    Attributes:
        step: how many tokens the beams have.
        beams: the texts that go on, scored by their log-probability.
        ended: the best of those that have ended, scored as they will be returned.
        hopeful: `(b,)`, whether a beam may still become better than they are.
        cache: what the model keeps of the beams, `b * num_beams` rows.
    """

    step: Array
    beams: _Texts
    ended: _Texts
    hopeful: Array
    cache: Any


class _SearchRules(NamedTuple):
    """When a text ends, and what its length is worth.

    Attributes:
        stop: `(s,)`, the tokens that end it.
        pad: the token behind them.
        most: how many tokens there are at most.
        penalty: `(most + 1 or more,)`, what a log-probability is divided by, for each length.
    """

    stop: Array
    pad: Array
    most: Array
    penalty: Array


def beam_search(
    model: Any,
    input_ids: Integer[Array, "b t"] | Integer[np.ndarray, "b t"],
    attention_mask: Any = None,
    *,
    max_new_tokens: int,
    num_beams: int = 4,
    length_penalty: float | Callable[[np.ndarray], np.ndarray] = 1.0,
    early_stopping: bool | str = False,
    stop_tokens: Sequence[int] = (),
    pad_token_id: int = 0,
    cache: Any = None,
) -> Beams:
    """Look for the texts with the highest `log P(text) / penalty(length)`, with `num_beams` at a time.

    In each step the beams are continued by every token, and the likeliest continuations go on. One that ends, and
    is among the first `num_beams`, is kept beside the best that ended before. A single beam gives what `generate`
    gives.

    The settings and their defaults are transformers'. The 2017 Transformer was decoded with four beams,
    `length_penalty=gnmt_penalty(0.6)` and at most 50 tokens more than its source has.

    Args:
        model: as in `generate`, with `reorder_cache(cache, rows)`.
        input_ids: `(b, t)`, the prompts, or what texts start with.
        attention_mask: `(b, t)`, True or 1 where a token stands and no padding; None is everywhere.
        max_new_tokens: the most tokens that are added; a text that has them ends.
        num_beams: how many texts go on.
        length_penalty: `α`, for a penalty of `length^α`: above 0 longer texts are better; or a function of lengths,
            such as `gnmt_penalty(0.6)`.
        early_stopping: when a row is finished. True: as soon as `num_beams` texts have ended. False: when the best
            beam, at its present length, is no better than the worst of them. "never": when it can be no better at
            any length.
        stop_tokens: tokens that end a text.
        pad_token_id: the token behind them.
        cache: as in `generate`, of `b` rows.

    Raises:
        ValueError: as in `generate`, a number of beams that is not positive, or `early_stopping` that is not known.

    Source: Sutskever et al. (arXiv 1409.3215), section 3.2; Wu et al. (arXiv 1609.08144), section 7; transformers'
        `generate(num_beams=...)`.
    """
    require_positive("num_beams", num_beams)
    require_known("early_stopping", early_stopping, EARLY_STOPPING)
    prompt = prepare(model, input_ids, attention_mask, max_new_tokens, cache, needs=("reorder_cache",))
    lengths = np.arange(1, prompt.tokens + 1, dtype=np.float64)
    worth = length_penalty(lengths) if callable(length_penalty) else lengths**length_penalty
    rules = _SearchRules(
        token_list("stop_tokens", stop_tokens),
        jnp.asarray(pad_token_id, jnp.int32),
        jnp.asarray(max_new_tokens, jnp.int32),
        jnp.asarray(np.concatenate([[1.0], worth])),  # no text has a length of 0
    )
    found = search(
        as_argument(model),
        prompt.ids,
        prompt.real,
        cache,
        rules,
        room=prompt.tokens,
        length=prompt.length,
        num_beams=num_beams,
        early_stopping=early_stopping,
    )
    tokens, lengths, scores = map(np.asarray, found)
    return Beams(tokens[:, :, : lengths.max()], lengths, scores)


def gnmt_penalty(alpha: float) -> Callable[[np.ndarray], np.ndarray]:
    """`((5 + length) / 6)^alpha`, the length penalty of the 2017 Transformer, for `beam_search`.

    Source: Wu et al. (arXiv 1609.08144), equation 14.
    """
    return lambda lengths: ((5 + lengths) / 6) ** alpha


@partial(jax.jit, static_argnames=("room", "length", "num_beams", "early_stopping"))
def search(
    model: Any,
    ids: Array,
    real: Array,
    cache: Any,
    rules: _SearchRules,
    *,
    room: int,
    length: int,
    num_beams: int,
    early_stopping: bool | str,
) -> _Texts:
    """Read the prompt, then search in a loop of the compiled program."""
    model, batch = without_dropout(model), ids.shape[0]
    cache = model.init_cache(batch, length) if cache is None else cache
    logits, cache = next_logits(model, ids, real, cache)  # once for all beams of a row
    of_beams = jnp.repeat(jnp.arange(batch), num_beams)
    nothing = _Texts(
        jnp.broadcast_to(rules.pad, (batch, num_beams, room)),
        jnp.zeros((batch, num_beams), jnp.int32),
        jnp.full((batch, num_beams), -jnp.inf, accumulator(logits.dtype)),
    )
    # All beams begin as the empty text: only the first counts, or they would stay the same.
    beams = nothing._replace(scores=nothing.scores.at[:, 0].set(0.0))
    start = _Search(
        jnp.zeros((), jnp.int32),
        beams,
        nothing,
        jnp.ones(batch, bool),
        model.reorder_cache(cache, of_beams),
    )

    def continued(now: _Search, logits: Array) -> _Search:
        return expanded(model, now, logits, rules, early_stopping)

    def step(now: _Search) -> _Search:
        last = now.beams.tokens[:, :, now.step - 1].reshape(-1, 1)
        logits, cache = next_logits(model, last, None, now.cache)
        return continued(now._replace(cache=cache), logits)

    first = continued(start, logits[of_beams])
    end = jax.lax.while_loop(lambda now: (now.step < rules.most) & jnp.any(now.hopeful), step, first)
    return end.ended


def expanded(
    model: Any, now: _Search, logits: Float[Array, "bk v"], rules: _SearchRules, early_stopping: bool | str
) -> _Search:
    """The search after one more token, whose logits are given for each beam."""
    num_beams = now.beams.scores.shape[1]
    step = now.step + 1
    parents, candidates = continuations(now.beams, logits, now.step, max(2, 1 + rules.stop.size) * num_beams)
    stops = jnp.isin(candidates.tokens[:, :, now.step], rules.stop) | (step == rules.most)

    going = jnp.where(stops, -jnp.inf, candidates.scores)
    order, beams = best(candidates._replace(scores=going), num_beams)
    parents = jnp.take_along_axis(parents, order, axis=1)
    rows = (jnp.arange(parents.shape[0])[:, None] * num_beams + parents).reshape(-1)

    # Those behind the first `num_beams` are there so that enough beams go on.
    counts = stops & now.hopeful[:, None] & (jnp.arange(stops.shape[1]) < num_beams)
    worth = jnp.where(counts, candidates.scores / rules.penalty[step].astype(going.dtype), -jnp.inf)
    _, ended = best(joined(now.ended, candidates._replace(scores=worth)), num_beams)
    hopeful = now.hopeful & may_improve(beams, ended, step, rules, early_stopping)
    return _Search(step, beams, ended, hopeful, model.reorder_cache(now.cache, rows))


def continuations(
    beams: _Texts, logits: Float[Array, "bk v"], step: Int[Array, ""], number: int
) -> tuple[Int[Array, "b c"], _Texts]:
    """The likeliest texts that are one token longer, and of which beam each is a continuation."""
    batch, num_beams, _ = beams.tokens.shape
    log_probs = jax.nn.log_softmax(logits.astype(beams.scores.dtype), axis=-1)
    vocab_size = logits.shape[-1]
    every = beams.scores[:, :, None] + log_probs.reshape(batch, num_beams, vocab_size)
    number = min(number, num_beams * vocab_size)
    scores, index = jax.lax.top_k(every.reshape(batch, -1), number)
    parents, token = jnp.divmod(index, vocab_size)
    tokens = jnp.take_along_axis(beams.tokens, parents[:, :, None], axis=1)
    tokens = tokens.at[:, :, step].set(token.astype(tokens.dtype))
    return parents, _Texts(tokens, jnp.broadcast_to(step + 1, scores.shape), scores)


def best(texts: _Texts, number: int) -> tuple[Int[Array, "b k"], _Texts]:
    """The `number` texts with the highest scores, the best first, and where they stood."""
    scores, order = jax.lax.top_k(texts.scores, number)
    tokens = jnp.take_along_axis(texts.tokens, order[:, :, None], axis=1)
    return order, _Texts(tokens, jnp.take_along_axis(texts.lengths, order, axis=1), scores)


def joined(first: _Texts, second: _Texts) -> _Texts:
    """The texts of both."""
    return _Texts(*(jnp.concatenate(parts, axis=1) for parts in zip(first, second, strict=True)))


def may_improve(
    beams: _Texts, ended: _Texts, step: Int[Array, ""], rules: _SearchRules, early_stopping: bool | str
) -> Bool[Array, "b"]:
    """Whether a row goes on: fewer than `num_beams` texts have ended, or a beam may still beat one of them."""
    worst = ended.scores[:, -1]  # -inf while there are fewer
    if early_stopping is True:
        return worst == -jnp.inf
    lengths = jnp.arange(rules.penalty.size)
    ahead = (lengths >= step) & (lengths <= rules.most) if early_stopping == "never" else lengths == step
    # A log-probability is below 0: the largest penalty makes the best score.
    penalty = jnp.max(jnp.where(ahead, rules.penalty, 0.0)).astype(worst.dtype)
    return beams.scores[:, 0] / penalty > worst
