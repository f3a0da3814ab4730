"""What a `config.json` says, and whether a model that we build from it computes what it describes."""

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from jax_attn.weights.files import read_json

CONFIG = "config.json"
QUANTIZED = "quantization_config"
MOST = 2**31 - 1  # of anything that is counted
MOST_LABELS = 10_000_000  # three times as many as the largest sets of them have (Amazon-3M); a head is drawn
MOST_LAYERS = 10_000  # which are built one by one: ten times as many as anyone has trained
LAYERS = (
    *("num_hidden_layers", "num_layers", "num_decoder_layers", "n_layers", "n_layer"),
    *("encoder_layers", "decoder_layers", "num_hidden_groups", "inner_group_num"),
)


class NotedConfig(Mapping[str, Any]):
    """A `config.json` that a module carries: it does not change, so that the module can be compiled.

    Attributes:
        ignored: the patterns of attributes that were passed over when the module was built.
        found: what the keys of its file said besides.
        unread: tensors of its file that the model does not read, by key, which are saved again.
    """

    def __init__(
        self, config: Mapping[str, Any], ignored: Collection[str] = (), found: Mapping[str, Any] | None = None
    ):
        self._text = json.dumps(dict(config), sort_keys=True)
        self.ignored = tuple(ignored)
        self.found = NotedConfig(found) if found else {}
        self.unread: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> Any:
        return json.loads(self._text)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(json.loads(self._text))

    def __len__(self) -> int:
        return len(json.loads(self._text))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NotedConfig) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


# Arguments of every model that change how it is compiled, and not what it computes.
BUILDING = {"scan": False, "remat": False}

# Attributes that any Hugging Face config may carry and that do not change what the model computes. Those of
# text generation stand in old files, for models that never generate; those of tools (sentence-transformers,
# transformers.js, exporters, trainers) are notes to themselves.
# fmt: off
NEUTRAL = frozenset(
    [
        "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal",
        "_commit_hash", "_experts_implementation", "_flash_attn_2_enabled", "_id2label", "_name_or_path",
        "_num_labels", "_output_attentions", "_output_hidden_states", "adapters", "architectures",
        "assistant_confidence_threshold", "attn_implementation", "bad_words_ids", "begin_suppress_tokens",
        "best_metric", "bos_token_id", "cache_config", "cache_implementation", "chunk_size_feed_forward",
        "classifier_activation", "cls_token_id", "constraints", "cross_attention_hidden_size",
        "custom_pipelines", "decoder_start_token_id", "diversity_penalty", "do_sample", "dola_layers", "dtype",
        "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id", "epsilon_cutoff", "eta_cutoff",
        "exponential_decay_length_penalty", "finetuning_task", "force_words_ids", "forced_bos_token_id",
        "forced_decoder_ids", "forced_eos_token_id", "generation_config", "gradient_checkpointing",
        "guidance_scale", "id2label", "ids_to_labels", "initializer_factor", "initializer_range",
        "is_composition", "is_training", "label2id", "label_names", "language", "length_penalty",
        "library_name", "license", "loss_type", "low_memory", "mask_token_id", "max_length", "max_new_tokens",
        "max_seq_length", "max_time", "min_length", "min_new_tokens", "min_p", "model_max_length",
        "model_name", "model_type", "name", "name_or_path", "neuron", "no_repeat_ngram_size",
        "num_assistant_tokens", "num_beam_groups", "num_beams", "num_choices", "num_labels",
        "num_return_sequences", "onnx", "output_attentions", "output_hidden_states", "output_logits",
        "output_past", "output_scores", "penalty_alpha", "pipeline_tag", "prefix", "problem_type",
        "prompt_lookup_num_tokens", "reference_compile", "remove_invalid_values", "renormalize_logits",
        "repetition_penalty", "return_all_scores", "return_dict", "return_dict_in_generate", "revision",
        "sbert_ce_default_activation_function", "sentence_transformers", "sep_token_id", "sequence_bias",
        "stop_strings", "summary_activation", "summary_first_dropout", "summary_last_dropout",
        "summary_proj_to_labels", "summary_type", "summary_use_proj", "suppress_tokens",
        "task_specific_params", "temperature", "tf_legacy_loss", "tie_encoder_decoder", "tie_word_embeddings",
        "token_healing", "tokenizer_class", "tokenizer_name", "tokenizer_type", "top_k", "top_p",
        "torch_dtype", "torchscript", "transformers.js_config", "transformers_version", "typical_p",
        "unk_token_id", "use_bfloat16", "use_cache", "use_fast", "use_return_dict", "version",
        "watermarking_config", "xla_device",
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
    QUANTIZED: None,
}


# How wide initial weights are: neutral, but numbers.
WIDTHS = ("initializer_range", "init_std", "initializer_factor", "initializer_cutoff_factor")


@dataclass(frozen=True)
class ConfigRules:
    """What the `config.json` of one `model_type` may say.

    Attributes:
        defaults: the attributes that the model is built from, each with its value where the file has none.
            The type of the default is the type that is asked for.
        optional: those of them that are ids, which may be 0, or null where there is none.
        nullable: further ones that may be null, each with its type where it is not.
        choices: for some of them, the values that are supported.
        ordinary: attributes that are supported with this value only, as those of `ORDINARY` are.
        neutral: further attributes that do not change what the model computes.
        prepare: from all that the file says, the same in today's words: several releases say one thing in several
            ways, or nest it.
        called: what the file calls those that `prepare` has renamed.
    """

    defaults: Mapping[str, Any]
    optional: Collection[str] = ()
    nullable: Mapping[str, type] = field(default_factory=dict)
    choices: Mapping[str, Collection[Any]] = field(default_factory=dict)
    ordinary: Mapping[str, Any] = field(default_factory=dict)
    neutral: Collection[str] = ()
    prepare: Callable[[dict[str, Any]], dict[str, Any]] = dict
    called: Mapping[str, str] = field(default_factory=dict)

    def with_defaults(self, defaults: Mapping[str, Any]) -> "ConfigRules":
        """The same rules, with further attributes that the model is built from."""
        return replace(self, defaults={**self.defaults, **defaults})


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
    given = _prepared({name: value for name, value in config.items() if not matches(name, ignore)}, rules)
    ordinary = {**ORDINARY, **rules.ordinary}
    errors = []
    for name, value in given.items():
        if name in rules.defaults:
            errors += _value_errors(name, value, rules)
        elif name == QUANTIZED and value is not None:
            errors.append(
                f"{name} says that the weights are quantized ({_method(value)}), which is not supported"
            )
        elif name in ordinary:
            if value not in (None, ordinary[name]):
                errors.append(f"{name}={value!r} is not supported, only {ordinary[name]!r} is")
        elif name not in NEUTRAL and name not in rules.neutral:
            errors.append(f"{name}={value!r} is not known here")
        elif name in WIDTHS and value is not None:
            errors += _number_errors(name, value)
    if errors:
        advice = "; ignore=[name, ...] (--ignore NAME) passes over what changes nothing in the model"
        raise ValueError("; ".join(errors) + advice)
    return {name: given.get(name, default) for name, default in rules.defaults.items()}


def _prepared(config: dict[str, Any], rules: ConfigRules) -> dict[str, Any]:
    """What the file says in today's words."""
    labels = config.get("id2label")
    if labels is not None and not are_labels(labels):
        raise ValueError(f"id2label={labels!r} must be an object of the names of labels by their numbers")
    if "num_labels" in rules.defaults and isinstance(labels, dict):  # of two labels, no file says how many
        config.setdefault("num_labels", len(labels))
    try:
        return rules.prepare(config)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"an attribute is not laid out as it should be: {error}") from None


def are_labels(labels: Any) -> bool:
    """Whether it is `{"0": "negative", "1": "positive"}`, which is all that transformers reads."""
    return isinstance(labels, dict) and all(str(number).isdecimal() for number in labels)


def _method(quantization: Any) -> str:
    """What a `quantization_config` calls itself."""
    given = quantization if isinstance(quantization, Mapping) else {}
    return str(given.get("quant_method") or f"{given.get('bits', 'an unknown number of')} bits")


def patterns(given: Collection[str]) -> tuple[str, ...]:
    """The patterns; a string alone is one of them, and not as many as it has letters.

    Raises:
        ValueError: they are none.
    """
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, Collection) or not all(isinstance(each, str) for each in given):
        raise ValueError(f"ignore must be a list of patterns of names, got {given!r}")
    return tuple(given)


def matches(name: str, patterns: Collection[str]) -> bool:
    """Whether one of the shell-like patterns fits the whole name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _value_errors(name: str, value: Any, rules: ConfigRules) -> list[str]:
    kind = int if name in rules.optional else rules.nullable.get(name, type(rules.defaults[name]))
    if value is None and (name in rules.optional or name in rules.nullable):
        return []
    called = rules.called.get(name, name)
    if kind is float and (wrong := _number_errors(called, value)):
        return wrong
    if kind is not float and type(value) is not kind:  # the exact type, since True is an int too
        return [f"{called}={value!r} must be of type {kind.__name__}"]
    least = 0 if name in rules.optional else 1
    if kind is int and value < least:
        return [f"{called}={value!r} must be at least {least}"]
    most = MOST_LAYERS if called in LAYERS else MOST_LABELS if called == "num_labels" else MOST
    if kind is int and value > most:
        return [f"{called}={value!r} must be at most {most}"]
    choices = rules.choices.get(name)
    if choices is not None and value not in choices:
        return [f"{called}={value!r} is not supported, only {', '.join(map(repr, choices))}"]
    return []


def _number_errors(name: str, value: Any) -> list[str]:
    """What is wrong with a number that need not be whole."""
    if type(value) not in (int, float):
        return [f"{name}={value!r} must be of type float"]
    if not is_finite(value):
        return [f"{name}={value!r} must be a finite number"]
    return [] if value >= 0 else [f"{name}={value!r} must be at least 0"]


def is_finite(number: float) -> bool:
    """Whether it is a number that a float can hold: an integer of JSON may have hundreds of digits."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False
