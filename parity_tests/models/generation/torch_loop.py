"""Decoding written out, for the torch twins: one text at a time, and every beam a tuple of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

# `(ids (1, t), cache) -> logits (1, t, v), new cache`
Read = Callable[[torch.Tensor, Any], tuple[torch.Tensor, Any]]


@torch.no_grad()
def greedy(read: Read, cache: Any, prompt: Sequence[int], most: int, stop: Sequence[int] = ()) -> list[int]:
    """The likeliest token, again and again, until one of `stop` or `most` tokens."""
    tokens: list[int] = []
    new = list(prompt)
    while len(tokens) < most and not (tokens and tokens[-1] in stop):
        logits, cache = read(torch.tensor([new]), cache)
        new = [int(logits[0, -1].argmax())]
        tokens += new
    return tokens


@torch.no_grad()
def beams(
    read: Read,
    cache: Any,
    prompt: Sequence[int],
    most: int,
    num_beams: int,
    penalty: Callable[[int], float],
    early_stopping: bool | str,
    stop: Sequence[int] = (),
) -> list[tuple[float, list[int]]]:
    """The texts that ended, with their scores, the best first."""

    def after(new: Sequence[int], cache: Any) -> tuple[torch.Tensor, Any]:
        logits, cache = read(torch.tensor([list(new)]), cache)
        return torch.log_softmax(logits[0, -1], dim=-1), cache

    going = [(0.0, [], *after(prompt, cache))]
    ended: list[tuple[float, list[int]]] = []
    for length in range(1, most + 1):
        candidates = [
            (score + float(more), [*tokens, token], cache)
            for score, tokens, log_probs, cache in going
            for token, more in enumerate(log_probs)
        ]
        candidates.sort(key=lambda candidate: -candidate[0])
        next_beams = []
        for rank, (score, tokens, cache) in enumerate(candidates):
            if tokens[-1] in stop or length == most:
                ended += [(score / penalty(length), tokens)] if rank < num_beams else []
            else:
                next_beams.append((score, tokens, cache))
        ended = sorted(ended, key=lambda text: -text[0])[:num_beams]
        if length == most:
            break
        lengths = range(length, most + 1) if early_stopping == "never" else [length]
        hope = next_beams[0][0] / max(map(penalty, lengths))
        if len(ended) == num_beams and (early_stopping is True or hope <= ended[-1][0]):
            break
        going = [
            (score, tokens, *after(tokens[-1:], cache)) for score, tokens, cache in next_beams[:num_beams]
        ]
    return ended
