"""Texts written on, token by token."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer

from jax_attn.models.generation.prompt import as_argument, next_logits, prepare, token_list, without_dropout
from jax_attn.models.generation.sampling import Sampling


class Generation(NamedTuple):
    """What `generate` returns.

    Attributes:
        tokens: `(b, n)`, the new tokens, with `pad_token_id` behind a stop token.
        lengths: `(b,)`, how many there are in each row, the stop token among them.
    """

    tokens: np.ndarray
    lengths: np.ndarray


class _Progress(NamedTuple):
    """A generation on its way: what one step hands to the next.

    Attributes:
        step: how many tokens were chosen.
        token: `(b,)`, the last of them.
        tokens: `(b, n)`, all of them, with room for more.
        lengths: `(b,)`, how many each row has.
        finished: `(b,)`, whether a row has met a stop token.
        seen: `(b, vocab_size)`, which tokens stand in prompt and text; None where nobody asks.
        cache: what the model keeps.
    """

    step: Array
    token: Array
    tokens: Array
    lengths: Array
    finished: Array
    seen: Array | None
    cache: Any


class _Rules(NamedTuple):
    """How tokens are chosen, and when it ends.

    Attributes:
        sampling: the choice.
        key: what is drawn with.
        stop: `(s,)`, tokens after which a row is finished.
        pad: the token behind them.
        most: how many tokens there are at most.
        never: `(n,)`, tokens that are never chosen; None is none.
        never_first: `(m,)`, those that are not the first; None is none.
    """

    sampling: Sampling
    key: Any
    stop: Array
    pad: Array
    most: Array
    never: Array | None
    never_first: Array | None


def generate(
    model: Any,
    input_ids: Integer[Array, "b t"] | Integer[np.ndarray, "b t"],
    attention_mask: Any = None,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    stop_tokens: Sequence[int] = (),
    suppress_tokens: Sequence[int] = (),
    begin_suppress_tokens: Sequence[int] = (),
    pad_token_id: int = 0,
    key: Array | None = None,
    cache: Any = None,
    on_token: Callable[[np.ndarray], Any] | None = None,
) -> Generation:
    """Write the texts on, by the likeliest token or by draws.

    Each row gets what it would get alone, wherever its padding stands. Two programs are compiled, one that reads
    the prompt and one for all other tokens, and met again for every prompt of about its length: lengths are rounded
    up, by a quarter at most from 64 on.

    A decoder is given the prompt. An encoder-decoder is given the tokens that its texts start with, and a cache
    that holds what it attends to::

        cache = model.init_cache(batch, length, model.encode(source, source_mask), source_mask)
        generate(model, jnp.full((batch, 1), start), cache=cache, max_new_tokens=50)

    Args:
        model: what has `init_cache(batch, length)`, `decode(input_ids, attention_mask, cache=cache)`, which returns
            vectors `(b, t, d)` and the new cache, and `logits(vectors)`. It runs without dropout.
        input_ids: `(b, t)`, the prompts.
        attention_mask: `(b, t)`, True or 1 where a token stands and no padding; None is everywhere.
        max_new_tokens: the most tokens that are added.
        temperature: 0 takes the likeliest token; above, tokens are drawn from `softmax(logits / temperature)`.
        top_k: draw from the `k` likeliest only.
        top_p: draw from the fewest whose probabilities add up to this.
        min_p: draw from those that are at least this share as likely as the likeliest.
        repetition_penalty: what the logits of tokens in prompt and text are divided by, where positive.
        stop_tokens: tokens after which a row is finished.
        suppress_tokens: tokens that are never chosen, as Whisper's `config.json` lists them.
        begin_suppress_tokens: tokens that are not chosen as the first.
        pad_token_id: the token behind them.
        key: a key of `jax.random`, needed where tokens are drawn. The same key gives the same tokens.
        cache: what was read before the prompt, of `init_cache` or a decode; it is not changed. None is nothing.
        on_token: called with the tokens `(b,)` of each step as soon as they are there, for streaming. The loop is
            Python's then, and its steps are compiled; the tokens are the same.

    Raises:
        ValueError: settings out of their range or without a key, every token suppressed, ids that are not
            `(b, t)` integers of the vocabulary, a row of nothing but padding, more tokens than positions or than
            the cache holds, or a model that is no decoder.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners"; for the settings, `Sampling`.
    """
    sampling = Sampling.checked(temperature, top_k, top_p, min_p, repetition_penalty)
    if sampling.temperature is not None and key is None:
        raise ValueError("key must be given where tokens are drawn, with a temperature above 0")
    prompt = prepare(model, input_ids, attention_mask, max_new_tokens, cache)
    rules = _Rules(
        sampling,
        None if sampling.temperature is None else key,
        token_list("stop_tokens", stop_tokens),
        jnp.asarray(pad_token_id, jnp.int32),
        jnp.asarray(max_new_tokens, jnp.int32),
        token_list("suppress_tokens", suppress_tokens) if len(suppress_tokens) else None,
        token_list("begin_suppress_tokens", begin_suppress_tokens) if len(begin_suppress_tokens) else None,
    )
    _require_a_choice(getattr(model, "vocab_size", None), suppress_tokens, begin_suppress_tokens)
    model = as_argument(model)
    progress = begin(model, prompt.ids, prompt.real, cache, rules, prompt.tokens, prompt.length)
    if on_token is None:
        progress = finish(model, progress, rules)
    else:
        on_token(np.array(progress.token))  # a copy: the next step writes where this one was
        while bool(goes_on(progress, rules)):
            progress = advance(model, progress, rules)
            on_token(np.array(progress.token))
    lengths = np.asarray(progress.lengths)
    return Generation(np.asarray(progress.tokens)[:, : lengths.max()], lengths)


def _require_a_choice(vocab_size: int | None, never: Any, never_first: Any) -> None:
    """Raise ValueError where no token is left to be chosen, at all or as the first."""
    suppressed = np.union1d(np.asarray(never, int), np.asarray(never_first, int))
    if vocab_size is not None and np.isin(np.arange(vocab_size), suppressed).all():
        raise ValueError(
            f"suppress_tokens and begin_suppress_tokens leave none of the {vocab_size} tokens to be the first"
        )


@partial(jax.jit, static_argnames=("room", "length"))
def begin(
    model: Any, ids: Array, real: Array, cache: Any, rules: _Rules, room: int, length: int
) -> _Progress:
    """Read the prompt, with a cache for `length` tokens where there is none, and choose the first token."""
    model, batch = without_dropout(model), ids.shape[0]
    cache = model.init_cache(batch, length) if cache is None else cache
    logits, cache = next_logits(model, ids, real, cache)
    seen = None
    if rules.sampling.repetition_penalty is not None:
        seen = jnp.zeros(logits.shape, bool).at[jnp.arange(batch)[:, None], ids].max(real)
    progress = _Progress(
        step=jnp.zeros((), jnp.int32),
        token=jnp.zeros(batch, jnp.int32),
        tokens=jnp.broadcast_to(rules.pad, (batch, room)),
        lengths=jnp.zeros(batch, jnp.int32),
        finished=jnp.zeros(batch, bool),
        seen=seen,
        cache=cache,
    )
    return chosen(progress, logits, rules)


@partial(jax.jit, donate_argnames="progress")
def advance(model: Any, progress: _Progress, rules: _Rules) -> _Progress:
    """Read the last token and choose one more."""
    return stepped(without_dropout(model), progress, rules)


@partial(jax.jit, donate_argnames="progress")
def finish(model: Any, progress: _Progress, rules: _Rules) -> _Progress:
    """Choose all tokens that are left, in a loop of the compiled program."""
    model = without_dropout(model)
    return jax.lax.while_loop(
        lambda progress: goes_on(progress, rules), lambda progress: stepped(model, progress, rules), progress
    )


def stepped(model: Any, progress: _Progress, rules: _Rules) -> _Progress:
    """One step."""
    logits, cache = next_logits(model, progress.token[:, None], None, progress.cache)
    return chosen(progress._replace(cache=cache), logits, rules)


def chosen(progress: _Progress, logits: Float[Array, "b v"], rules: _Rules) -> _Progress:
    """The progress with one more token in the rows that are not finished."""
    logits = allowed(logits, progress.step, rules)
    drawn = rules.sampling(logits, progress.seen, rules.key, progress.step)
    token = jnp.where(progress.finished, rules.pad, drawn)
    seen = progress.seen
    return _Progress(
        step=progress.step + 1,
        token=token,
        tokens=progress.tokens.at[:, progress.step].set(token),
        lengths=progress.lengths + ~progress.finished,
        finished=progress.finished | jnp.isin(token, rules.stop),
        seen=None if seen is None else seen.at[jnp.arange(token.shape[0]), token].set(True),
        cache=progress.cache,
    )


def allowed(logits: Float[Array, "b v"], step: Int[Array, ""], rules: _Rules) -> Float[Array, "b v"]:
    """The logits, with -inf for tokens that are not to be chosen."""
    if rules.never is not None:
        logits = logits.at[:, rules.never].set(-jnp.inf)
    if rules.never_first is not None:
        logits = jnp.where(step == 0, logits.at[:, rules.never_first].set(-jnp.inf), logits)
    return logits


def goes_on(progress: _Progress, rules: _Rules) -> Bool[Array, ""]:
    """Whether any row wants another token."""
    return (progress.step < rules.most) & ~jnp.all(progress.finished)
