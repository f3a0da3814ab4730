"""What trainings of an encoder of texts share: its options, its tokenizer, and where its weights begin."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from flax import nnx

from jax_attn.training.data import TextTokenizer, load_tokenizer, train_bpe
from jax_attn.training.models import starting_model
from jax_attn.training.options import TrainingOptions
from jax_attn.weights.config import read_config
from jax_attn.weights.sample import minilm_folder

# Sizes for many devices: BERT base, in the order of layers that trains at any depth.
BERT_BASE: dict[str, Any] = {
    "hidden_size": 768,
    "num_layers": 12,
    "num_heads": 12,
    "norm_placement": "pre",
    "vocab_size": 32_000,
    "max_tokens": 512,
    "dtype": "bfloat16",
    "scan": True,
}


FIXED_BY_A_CHECKPOINT = (
    "hidden_size",
    "num_layers",
    "num_heads",
    "norm_placement",
    "vocab_size",
    "lowercase",
)


@dataclass(frozen=True, kw_only=True)
class EncoderOptions(TrainingOptions):
    """What can be set; the comments are the text of `--help`."""

    from_pretrained: Path | None = None  # folder of an encoder with its tokenizer.json; or minilm
    hidden_size: int = 128  # width of the encoder; its feed-forward layers are twice as wide
    num_layers: int = 2  # encoder layers
    num_heads: int = 4  # attention heads; they divide the width
    norm_placement: Literal["pre", "post"] = "post"  # deep encoders with post need the warm-up
    dropout: float = 0.1  # after embeddings, attention and feed-forward, and before the last layer
    vocab_size: int = 8000  # bytes and frequent byte pairs, learned from the texts to train on
    lowercase: bool = False  # capitals are no letters of their own: more of a small vocabulary is for words
    max_tokens: int = 64  # longer texts are cut
    held_out: float = 0.15  # share of the different texts that is kept for the test
    scan: bool = False  # layers as a loop: compiled once in place of once a layer
    remat: bool = False  # layers are computed again in the backward pass, to save memory

    def __post_init__(self) -> None:
        """Raise ValueError for the first option that is out of its range."""
        super().__post_init__()
        for name in ("hidden_size", "num_layers", "num_heads", "vocab_size"):
            self.require(name, 1, 10**7)
        self.require("dropout", 0.0, 0.9)
        self.require("max_tokens", 3, 10**6)
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"--num-heads must divide --hidden-size, got {self.num_heads} heads for a width of "
                f"{self.hidden_size}"
            )
        if self.from_pretrained is not None:
            own = {field.name: field.default for field in fields(self)}
            for name in FIXED_BY_A_CHECKPOINT:
                if getattr(self, name) != own[name]:
                    raise ValueError(
                        f"--{name.replace('_', '-')} is fixed by --from-pretrained; leave it out"
                    )


def checkpoint_folder(options: EncoderOptions) -> Path | None:
    """Where the checkpoint lies: `minilm` is the sample that a package carries."""
    folder = options.from_pretrained
    return minilm_folder() if folder == Path("minilm") and not folder.exists() else folder


def encoder_tokenizer(options: EncoderOptions, texts: Sequence[str]) -> TextTokenizer:
    """That of the checkpoint, or else byte pairs that are learned from the texts.

    Raises:
        ValueError, OSError: the checkpoint has none, or one that does not fit its model, or too few positions.
    """
    folder = checkpoint_folder(options)
    if folder is None:
        return train_bpe(texts, options.vocab_size, lowercase=options.lowercase)
    config, tokenizer = read_config(folder), load_tokenizer(folder)
    if tokenizer.vocab_size > config.get("vocab_size", tokenizer.vocab_size):
        raise ValueError(
            f"{folder}: tokenizer.json has ids up to {tokenizer.vocab_size - 1}, and the model a vocabulary of "
            f"{config['vocab_size']}: it belongs to another model"
        )
    positions = config.get("max_position_embeddings", options.max_tokens)
    if options.max_tokens > positions:
        raise ValueError(f"--max-tokens must be at most {positions}, the positions of {folder}")
    return tokenizer


def starting_encoder(
    options: EncoderOptions, tokenizer: TextTokenizer, architecture: str, **config: Any
) -> nnx.Module:
    """The encoder under the head of a task: a checkpoint's, or a BERT with weights that are drawn.

    Args:
        options: sizes, dtype, seed.
        tokenizer: of `encoder_tokenizer`.
        architecture: as in `from_pretrained`: "ForSequenceClassification".
        config: further attributes of `config.json`, such as `num_labels`.
    """
    compiling = {"scan": options.scan, "remat": options.remat}
    folder = checkpoint_folder(options)
    if folder is not None:
        return starting_model(folder, options, architecture, **compiling, **config)
    if options.norm_placement == "post" and not options.warmup:
        print("no warm-up: deep encoders do not learn so with post-norm; compare --norm-placement pre")
    own = {} if options.norm_placement == "post" else {"norm_placement": options.norm_placement}
    drawn = {
        "model_type": "jax_attn_bert" if own else "bert",
        **own,
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": options.hidden_size,
        "num_hidden_layers": options.num_layers,
        "num_attention_heads": options.num_heads,
        "intermediate_size": 2 * options.hidden_size,
        "max_position_embeddings": options.max_tokens,
        "hidden_dropout_prob": options.dropout,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": tokenizer.pad_id,
        **config,
    }
    return starting_model(drawn, options, architecture, **compiling)
