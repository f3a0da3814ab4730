"""What a `config.json` says, and whether a model that we build from it computes what it describes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from jax_attn.weights.files import read_json

CONFIG = "config.json"

# Attributes that any Hugging Face config may carry and that do not change what the model computes. Those of
# text generation stand in old files, for models that never generate.
# fmt: off
NEUTRAL = frozenset(
    [
        "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_name_or_path",
        "architectures", "attn_implementation", "bad_words_ids", "begin_suppress_tokens",
        "bos_token_id", "chunk_size_feed_forward", "cls_token_id", "cross_attention_hidden_size",
        "decoder_start_token_id", "diversity_penalty", "do_sample", "dtype", "early_stopping",
        "encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty",
        "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing",
        "id2label", "initializer_range", "label2id", "language", "length_penalty", "mask_token_id",
        "max_length", "min_length", "model_type", "name", "name_or_path", "no_repeat_ngram_size",
        "num_beam_groups", "num_beams", "num_labels", "num_return_sequences", "output_attentions",
        "output_hidden_states", "output_scores", "prefix", "problem_type",
        "remove_invalid_values", "repetition_penalty", "return_dict", "return_dict_in_generate",
        "sep_token_id", "suppress_tokens", "task_specific_params", "temperature", "tf_legacy_loss",
        "tie_encoder_decoder", "tie_word_embeddings", "tokenizer_class", "top_k", "top_p",
        "torch_dtype", "torchscript", "transformers_version", "typical_p", "unk_token_id",
        "use_bfloat16", "use_cache", "use_return_dict",
    ]
)
# fmt: on

# Attributes that do, with the one value for which a model is the ordinary one.
ORDINARY: dict[str, Any] = {
    "add_cross_attention": False,
    "auto_map": None,  # the model is code that comes with the checkpoint
    "is_decoder": False,
    "is_encoder_decoder": False,
    "pruned_heads": {},
    "quantization_config": None,
}


@dataclass(frozen=True)
class ConfigRules:
    """What the `config.json` of one `model_type` may say.

    Attributes:
        defaults: the attributes that the model is built from, each with its value where the file has none.
            The type of the default is the type that is asked for.
        optional: those of them that are ids, which may be 0, or null where there is none.
        choices: for some of them, the values that are supported.
        ordinary: attributes that are supported with this value only, as those of `ORDINARY` are.
        neutral: further attributes that do not change what the model computes.
    """

    defaults: Mapping[str, Any]
    optional: Collection[str] = ()
    choices: Mapping[str, Collection[Any]] = field(default_factory=dict)
    ordinary: Mapping[str, Any] = field(default_factory=dict)
    neutral: Collection[str] = ()


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a checkpoint's folder.

    Raises:
        FileNotFoundError: there is no such folder, or it has no `config.json`.
        ValueError: the file is not a JSON object with a `model_type`.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG}, so it is no checkpoint")
    config = read_json(path)
    if not isinstance(config.get("model_type"), str):
        raise ValueError(f"{path} has no model_type, which tells the architecture")
    return config


def model_arguments(
    config: Mapping[str, Any], rules: ConfigRules, ignore: Collection[str] = ()
) -> dict[str, Any]:
    """The values of the attributes that the model is built from.

    Args:
        config: the content of a `config.json`.
        rules: those of its `model_type`.
        ignore: patterns of attributes to pass over.

    Raises:
        ValueError: an attribute changes the mathematics in a way that is not supported, is of a wrong type,
            or is not known, so that nobody can tell. All are named at once.
    """
    given = {name: value for name, value in config.items() if not matches(name, ignore)}
    ordinary = {**ORDINARY, **rules.ordinary}
    errors = []
    for name, value in given.items():
        if name in rules.defaults:
            errors += _value_errors(name, value, rules)
        elif name in ordinary:
            if value not in (None, ordinary[name]):
                errors.append(f"{name}={value!r} is not supported, only {ordinary[name]!r} is")
        elif name not in NEUTRAL and name not in rules.neutral:
            errors.append(f"{name}={value!r} is not known here")
    if errors:
        advice = "; `ignore` takes the names of attributes that change nothing in what the model computes"
        raise ValueError("; ".join(errors) + advice)
    return {name: given.get(name, default) for name, default in rules.defaults.items()}


def matches(name: str, patterns: Collection[str]) -> bool:
    """Whether one of the shell-like patterns fits the whole name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _value_errors(name: str, value: Any, rules: ConfigRules) -> list[str]:
    kind = type(rules.defaults[name])
    if value is None and name in rules.optional:
        return []
    accepted = (int, float) if kind is float else (kind,)
    if type(value) not in accepted:  # an exact type, since True is an int too
        return [f"{name}={value!r} must be of type {kind.__name__}"]
    least = 0 if name in rules.optional else 1
    if kind is int and value < least:
        return [f"{name}={value!r} must be at least {least}"]
    choices = rules.choices.get(name)
    if choices is not None and value not in choices:
        return [f"{name}={value!r} is not supported, only {', '.join(map(repr, choices))}"]
    return []
