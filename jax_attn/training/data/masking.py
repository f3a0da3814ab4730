"""Tokens hidden from the model, to be predicted."""

from collections.abc import Collection

import numpy as np

from jax_attn.training.data.batches import GlobalBatches
from jax_attn.training.data.examples import IGNORED


class MaskedBatches(GlobalBatches):
    """Batches in which some tokens are hidden: the labels are those tokens, and IGNORED elsewhere.

    Of the chosen tokens 80% become the mask, 10% another token and 10% stay, anew in every step. At least one
    token of a batch is chosen. Special tokens, padding and rows that fill up a batch never are.

    Args:
        batches: with `input_ids`.
        mask_id: the token that hides.
        special_ids: all that are no text: padding, begin, end, mask.
        vocab_size: of the tokenizer.
        seed: of the choice.
        share: of the tokens that are chosen.

    Source: Devlin et al. (arXiv 1810.04805), section 3.1.
    """

    def __init__(
        self,
        batches: GlobalBatches,
        mask_id: int,
        special_ids: Collection[int],
        vocab_size: int,
        seed: int,
        share: float = 0.15,
    ):
        if not 0 < share < 1:
            raise ValueError(f"the share of masked tokens must be between 0 and 1, got {share}")
        self.batches, self.batch_size, self.steps = batches, batches.batch_size, batches.steps
        self.mask_id, self.seed, self.share = mask_id, seed, share
        self._special = np.isin(np.arange(vocab_size), list(special_ids))
        self._words = np.flatnonzero(~self._special)

    def __len__(self) -> int:
        if self.steps is None:
            raise TypeError("these batches have no end")
        return self.steps

    def rows(self, step: int) -> np.ndarray:
        """The rows of the examples in the global batch."""
        return self.batches.rows(step)

    def part(self, step: int, rows: slice) -> dict[str, np.ndarray]:
        """These rows of the global batch `step`; numbers are drawn for all of it, the same on any host."""
        batch = dict(self.batches[step])
        ids = batch["input_ids"]
        random = np.random.default_rng([self.seed, step, 3])
        drawn = np.where(self._special[ids], 2.0, random.random(ids.shape))
        drawn[len(self.rows(step)) :] = 2.0  # rows that fill up the last batch
        chosen = (drawn < self.share) | ((drawn == drawn.min()) & (drawn < 1))
        change = random.random(ids.shape)
        other = random.choice(self._words, ids.shape)
        batch["labels"] = np.where(chosen, ids, IGNORED).astype(np.int32)
        hidden = np.where(change < 0.8, self.mask_id, np.where(change < 0.9, other, ids))
        batch["input_ids"] = np.where(chosen, hidden, ids).astype(np.int32)
        return {name: values[rows] for name, values in batch.items()}
