"""Train a language model on plain text, in JAX, in torch, or in both side by side, and let it write.

    python examples/train_language_model.py --out runs/kjv                    # the King James Bible, by characters
    python examples/train_language_model.py --out runs/kjv --sample "In the beginning"      # once it is trained
    python examples/train_language_model.py --data mine.txt --tokens bpe --vocab-size 4000
    python examples/train_language_model.py --preset nanogpt-cpu --data shakespeare.txt
    python examples/train_language_model.py --framework both --steps 100

The model is a Llama (rotary positions, RMS norms, SwiGLU) or, with `--style gpt2`, a GPT-2. Your own text is a file
or a folder of files; its last tenth is held out. After each evaluation the model writes a few lines on from where
that begins. `--out` ends with a checkpoint folder of Hugging Face's layout, `model/`, which transformers loads too.

Presets: `laptop` is the default; `nanogpt-cpu` has the sizes and the schedule of nanoGPT's run without a GPU, which
its README puts at a loss of 1.88 on Shakespeare's characters; `pod` is a 1.3B Llama on byte pairs, for
`--mesh fsdp=256` and the like.

Expected with the defaults: 1.41 nats a held-out character in less than five minutes, and lines like the Bible's.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jax_attn.cli.example import run_example
from jax_attn.models.generation import generate
from jax_attn.training import Result, Task, TrainingOptions, fit
from jax_attn.training.data import (
    OrderedBatches,
    ShuffledBatches,
    TextTokenizer,
    WindowExamples,
    character_tokenizer,
    hold_out_end,
    load_tokenizer,
    train_bpe,
)
from jax_attn.training.loop import evaluate
from jax_attn.training.losses import summed_cross_entropy, torch_summed_cross_entropy
from jax_attn.training.making import precision
from jax_attn.training.models import save_model, starting_model
from jax_attn.training.samples import load_texts
from jax_attn.training.task import Sum
from jax_attn.weights import from_pretrained
from jax_attn.weights.twin import torch_twin


@dataclass(frozen=True, kw_only=True)
class Options(TrainingOptions):
    """What can be set; the comments are the text of `--help`."""

    preset: Literal["laptop", "nanogpt-cpu", "pod"] = "laptop"  # other flags change one option of it
    data: str = "kjv"  # the King James Bible; or a text file, .jsonl, .csv, or a folder of them
    text_column: str = "text"  # of .jsonl, .csv and .tsv
    held_out: float = 0.1  # share of the text, at its end, that is kept for the test
    tokens: Literal["characters", "bpe"] = "characters"  # bpe: bytes and frequent byte pairs
    vocab_size: int = 4096  # of bpe, learned from the text trained on
    style: Literal["llama", "gpt2"] = "llama"
    hidden_size: int = 128  # width of the model
    num_layers: int = 3
    num_heads: int = 4  # they divide the width
    num_kv_heads: int | None = None  # of llama: heads of keys and values, each shared by several; None is all
    block: int = 128  # tokens that the model sees at once
    dropout: float = (
        0.0  # gpt2: after embeddings, attention and feed-forward; llama: of attention weights alone
    )
    scan: bool = False  # layers as a loop: compiled once in place of once a layer
    remat: bool = False  # layers are computed again in the backward pass, to save memory
    eval_batches: int = 8  # of the held-out text, spread over it, in evaluations; at the end it is all of it
    sample: str | None = None  # only write this text on, with the finished run in --out
    sample_tokens: int = 300  # how many tokens are written
    temperature: float = 0.8  # of samples; 0 takes the likeliest token
    top_k: int | None = None  # samples draw from the k likeliest tokens alone

    steps: int = 800
    batch_size: int = 16  # texts of --block tokens in a step, over all devices
    learning_rate: float = 3e-3
    warmup: float = 0.05
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)

    def __post_init__(self) -> None:
        """Raise ValueError for the first option that is out of its range."""
        super().__post_init__()
        for name in (
            "hidden_size",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "eval_batches",
            "sample_tokens",
        ):
            self.require(name, 1, 10**7)
        self.require("block", 2, 10**7)
        self.require("dropout", 0.0, 0.9)
        self.require("temperature", 0.0, 100.0)
        if self.hidden_size % self.num_heads or self.hidden_size // self.num_heads % 2:
            raise ValueError(
                f"--num-heads must divide --hidden-size={self.hidden_size} into even parts, got {self.num_heads}"
            )
        if self.num_kv_heads and self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"--num-kv-heads must divide --num-heads={self.num_heads}, got {self.num_kv_heads}"
            )
        if self.num_kv_heads and self.style == "gpt2":
            raise ValueError("--num-kv-heads is of --style llama: a GPT-2 has keys and values for each head")
        if self.sample is not None and (self.out is None or not self.sample):
            raise ValueError("--sample takes the beginning of a text, and --out the folder of a finished run")


PRESETS = {
    "laptop": Options(),
    "nanogpt-cpu": Options(
        preset="nanogpt-cpu",
        style="gpt2",
        num_layers=4,
        block=64,
        batch_size=12,
        steps=2000,
        learning_rate=1e-3,
        schedule="cosine",
    ),
    "pod": Options(
        preset="pod",
        tokens="bpe",
        vocab_size=32768,
        hidden_size=2048,
        num_layers=24,
        num_heads=16,
        block=2048,
        dtype="bfloat16",
        scan=True,
        remat=True,
        batch_size=512,
        steps=50_000,
        learning_rate=3e-4,
        schedule="cosine",
        warmup=0.02,
        betas=(0.9, 0.95),
    ),
}


class Text(NamedTuple):
    """A text as tokens: what is trained on, what is held out, and how many characters a held-out token has."""

    tokenizer: TextTokenizer
    training: np.ndarray
    held_out: np.ndarray
    characters: float


def load_data(options: Options) -> Text:
    """Read, split and tokenise the text."""
    text = "\n".join(load_texts(options.data, options.text_column))
    parts = hold_out_end(text, options.held_out)
    for name, part in zip(("trained on", "held out"), parts, strict=True):
        if len(part) <= options.block:
            raise ValueError(
                f"the text {name} has {len(part)} characters, and --block {options.block}: give more text or a "
                "smaller --block"
            )
    if options.tokens == "bpe":
        tokenizer = train_bpe(parts[0].splitlines(keepends=True), options.vocab_size)
    else:
        tokenizer = character_tokenizer(parts)
    training, held_out = tokenizer.encode(parts, specials=False)
    print(f"{len(training)} tokens to train on, {len(held_out)} held out, {tokenizer.vocab_size} different")
    return Text(tokenizer, training, held_out, len(parts[1]) / len(held_out))


def make_config(vocab_size: int, options: Options) -> dict[str, Any]:
    """The model, as its `config.json` describes it."""
    if options.style == "gpt2":
        return {
            "model_type": "gpt2",
            "vocab_size": vocab_size,
            "n_positions": options.block,
            "n_embd": options.hidden_size,
            "n_layer": options.num_layers,
            "n_head": options.num_heads,
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), options.dropout),
            **NO_SPECIALS,
        }
    return {
        "model_type": "llama",
        "vocab_size": vocab_size,
        "max_position_embeddings": options.block,
        "hidden_size": options.hidden_size,
        "intermediate_size": -(-options.hidden_size * 8 // 3 // 64)
        * 64,  # as many weights as 4 * width without a gate
        "num_hidden_layers": options.num_layers,
        "num_attention_heads": options.num_heads,
        "num_key_value_heads": options.num_kv_heads or options.num_heads,
        "attention_dropout": options.dropout,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        **NO_SPECIALS,
    }


NO_SPECIALS = {"bos_token_id": None, "eos_token_id": None}  # a text has no token of its beginning or end


def make_task(text: Text, options: Options) -> Task:
    """The model, its loss in both frameworks, and what it writes when it is evaluated."""
    architecture = {"llama": "ForCausalLM", "gpt2": "LMHeadModel"}[options.style]
    config = make_config(text.tokenizer.vocab_size, options)
    beginning = text.tokenizer.decode(text.held_out[:32])

    def make() -> Any:
        return starting_model(config, options, architecture, scan=options.scan, remat=options.remat)

    return Task(
        make,
        loss,
        torch_loss,
        twin=lambda: torch_twin(make()),
        write=lambda model: written(model, text.tokenizer, beginning, options),
        save=lambda model, folder: save_model(folder, model, text.tokenizer),
    )


def loss(model: Any, batch: Any) -> Sum:
    """Cross-entropy with the next token, summed over the tokens, and their number."""
    return summed_cross_entropy(model(batch["input_ids"]), batch["labels"])


def torch_loss(model: Any, batch: Any) -> Sum:
    """The same in torch."""
    return torch_summed_cross_entropy(model(batch["input_ids"]), batch["labels"])


def written(model: Any, tokenizer: TextTokenizer, beginning: str, options: Options) -> str:
    """The text written on by `--sample-tokens`, with keys and values of what was read in a cache.

    The model sees `block` tokens. When they are full, it reads the later half of them again and goes on.
    """
    block = model.config.get("max_position_embeddings") or model.config["n_positions"]
    (ids,) = tokenizer.encode([beginning], specials=False)
    end = len(ids) + options.sample_tokens
    key = jax.random.key(options.seed)
    while len(ids) < end:
        prompt = ids[-block // 2 :]
        new = generate(
            model,
            prompt[None],
            max_new_tokens=min(end - len(ids), block - len(prompt)),
            temperature=options.temperature,
            top_k=options.top_k,
            key=jax.random.fold_in(key, len(ids)),
        )
        ids = np.concatenate([ids, new.tokens[0]])
    return tokenizer.decode(ids)


def train(options: Options) -> Result | None:
    """Read, train, test, and print; or only write, with a run that is finished."""
    if options.sample is not None:
        assert options.out is not None
        folder = options.out / "model" if (options.out / "model").is_dir() else options.out
        print(written(from_pretrained(folder), load_tokenizer(folder), options.sample, options))
        return None
    text = load_data(options)
    batches = ShuffledBatches(WindowExamples(text.training, options.block), options.batch_size, options.seed)
    held_out = OrderedBatches(WindowExamples(text.held_out, options.block), 4 * options.batch_size)
    few = np.unique(np.linspace(0, len(held_out) - 1, options.eval_batches).round().astype(int))
    result = fit(make_task(text, options), batches, options, [held_out[number] for number in few])
    with precision(options):
        for name, trainer in result.trainers.items():
            result.figures[name].update(evaluate(trainer, held_out))
            nats = result.figures[name]["loss"] / text.characters
            print(f"{name}: {nats:.3f} nats a held-out character, {nats / np.log(2):.3f} bits")
    return result


def main(arguments: Sequence[str] | None = None, program: str = "train_language_model.py") -> int:
    """The command line: 0 if all went well, 2 for bad input."""
    return run_example(program, PRESETS, train, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
