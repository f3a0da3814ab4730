"""The table of what is measured: each row a call of attention, chosen by benchmark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Shape(NamedTuple):
    """Sizes of queries, keys and values: batch, tokens, heads, width of a head."""

    batch: int
    tokens: int
    heads: int
    head_dim: int

    def __str__(self) -> str:
        return f"B{self.batch} N{self.heads} T{self.tokens} H{self.head_dim}"


@dataclass(frozen=True)
class Case:
    """One call of attention.

    Attributes:
        shape: of the queries.
        backward: whether the gradients of queries, keys and values are computed too.
        keys: number of keys, where it is another than of queries.
        mask: "full"; "causal"; "padded", the batch entries have from half of the keys to all of them.
        dtype: of queries, keys and values.
    """

    shape: Shape
    backward: bool = False
    keys: int | None = None
    mask: str = "causal"
    dtype: str = "float32"

    @property
    def num_keys(self) -> int:
        """How many keys there are."""
        return self.shape.tokens if self.keys is None else self.keys

    @property
    def passes(self) -> str:
        """What is computed, in words."""
        return "forward+backward" if self.backward else "forward"

    def __str__(self) -> str:
        keys = "" if self.keys is None else f" S{self.keys}"
        return f"{self.shape}{keys} {self.mask} {self.dtype}, {self.passes}"


DTYPES = ("float32", "bfloat16")
LENGTHS = (512, 1024, 2048, 4096, 8192, 16_384, 32_768)
SCALE_HEADS = 2  # enough to share among cores, and few enough that the longest takes seconds
PASSES = (False, True)

# What a user of each benchmark gets who names no shape.
CASES: Mapping[str, Sequence[Case]] = {
    "attention": (
        Case(Shape(2, 1024, 12, 64)),
        Case(Shape(1, 4096, 12, 64)),
        Case(Shape(1, 2048, 12, 64), backward=True),
        Case(Shape(1, 4096, 8, 64), backward=True),
    ),
    # One more token after 4,096 others, as when a model writes.
    "decode": tuple(
        Case(Shape(batch, 1, 12, 64), keys=4096, mask="full", dtype=dtype)
        for dtype in DTYPES
        for batch in (1, 8, 32)
    ),
    # Many short sentences, as an encoder is trained and served with.
    "short": tuple(
        Case(Shape(64, 128, 12, 64), backward, mask=mask, dtype=dtype)
        for dtype in DTYPES
        for mask in ("full", "padded")
        for backward in PASSES
    ),
    "scale": tuple(
        Case(Shape(1, tokens, SCALE_HEADS, 64), backward, dtype=dtype)
        for dtype in DTYPES
        for backward in PASSES
        for tokens in LENGTHS
    ),
}
