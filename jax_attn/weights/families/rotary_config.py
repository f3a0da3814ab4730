"""What a `config.json` says of rotary positions, in the words of several releases."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jax_attn.models.part import Part
from jax_attn.nn.positions.rotary import RotaryPositions
from jax_attn.nn.positions.rotary_scaling import (
    DynamicNTKScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    YarnScaling,
)
from jax_attn.weights.config import is_finite
from jax_attn.weights.family import Settings

BASE = 10000.0

# The newest files have it all in `rope_parameters`, the others `rope_theta` beside `rope_scaling`.
DEFAULTS: dict[str, Any] = {
    "rope_theta": BASE,
    "rope_scaling": None,
    "rope_parameters": None,
    "max_position_embeddings": 2048,
    "original_max_position_embeddings": None,
}
NULLABLE = {
    "rope_theta": float,
    "rope_scaling": dict,
    "rope_parameters": dict,
    "original_max_position_embeddings": int,
}


class Kind(NamedTuple):
    """One way to scale: its class, the attributes that it needs, and those that have a default."""

    scaling: type
    needed: tuple[str, ...]
    others: tuple[str, ...] = ()


ORIGINAL = "original_max_position_embeddings"
KINDS = {
    "linear": Kind(LinearScaling, ("factor",), (ORIGINAL,)),  # which neither reads
    "dynamic": Kind(DynamicNTKScaling, ("factor",), (ORIGINAL,)),
    "yarn": Kind(
        YarnScaling,
        (),
        (
            "factor",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
            ORIGINAL,
        ),
    ),
    "llama3": Kind(Llama3Scaling, ("factor", "low_freq_factor", "high_freq_factor"), (ORIGINAL,)),
    "longrope": Kind(
        LongRopeScaling, ("short_factor", "long_factor"), ("factor", "attention_factor", ORIGINAL)
    ),
}
PASSED = (("partial_rotary_factor", 1.0),)  # attributes that change nothing with these values


def rotary_positions(config: Settings, head_dim: int) -> Part:
    """The rotary positions of heads of that width.

    Raises:
        ValueError: a kind of scaling or one of its attributes is not known, is missing, or is not a number.
    """
    given = config.rope_scaling or config.rope_parameters or {}
    bases = (given.get("rope_theta"), config.rope_theta, BASE)
    base = _number("rope_theta", next(each for each in bases if each is not None))
    return Part(RotaryPositions, head_dim=head_dim, base=base, scaling=_scaling(given, config))


def _scaling(given: Mapping[str, Any], config: Settings) -> Part | None:
    name = given.get("rope_type", given.get("type", "default"))
    if name not in ("default", *KINDS):
        raise ValueError(
            f"rope_type={name!r} is not supported, only 'default', {', '.join(map(repr, KINDS))}"
        )
    kind = KINDS.get(name, Kind(RotaryPositions, ()))
    own = {
        key: _attribute(name, kind, key, value)
        for key, value in given.items()
        if value is not None and key not in ("rope_type", "type", "rope_theta") and (key, value) not in PASSED
    }
    for key in kind.needed:
        if key not in own:
            raise ValueError(f"rope_type={name!r} needs {key}")
    longest = config.max_position_embeddings
    trained = own.pop(ORIGINAL, longest)
    trained = config.original_max_position_embeddings or trained
    if name in ("yarn", "longrope"):
        own.setdefault("factor", longest / trained)
    if name not in ("default", "linear"):
        own["original_length"] = longest if name == "dynamic" else trained
    return None if name == "default" else Part(kind.scaling, **own)


def _attribute(name: str, kind: Kind, key: str, value: Any) -> Any:
    """An attribute of that kind of scaling, once it is known to be one."""
    if key not in (*kind.needed, *kind.others):
        raise ValueError(f"{key}={value!r} is not known for rope_type={name!r}")
    if key == "truncate":
        if not isinstance(value, bool):
            raise ValueError(f"{key} must be true or false, got {value!r}")
        return value
    if key == ORIGINAL:
        if _number(key, value) % 1:
            raise ValueError(f"{key} must be an integer, got {value!r}")
        return int(value)
    if key not in ("short_factor", "long_factor"):
        return _number(key, value)
    if not isinstance(value, list):
        raise ValueError(f"{key} must be a list of numbers, got {value!r}")
    return tuple(_number(key, factor) for factor in value)


def _number(name: str, value: Any) -> float:
    """The value, once it is known to be a number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not is_finite(value) or value <= 0:
        raise ValueError(f"{name} must be a number above 0, got {value!r}")
    return float(value)
