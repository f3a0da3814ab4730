"""The torch twin of a model that `from_pretrained` or `from_config` made."""

from typing import Any

from flax import nnx

from jax_attn.models.part import Part
from jax_attn.weights.config import NotedConfig
from jax_attn.weights.families import family_of
from jax_attn.weights.pretrained import BuildOptions, part_of
from jax_attn.weights.state_dict import state_dict


def described(model: nnx.Module) -> Part:
    """The model as a part, from the config that it carries.

    Raises:
        ValueError: it carries none.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, NotedConfig):
        raise ValueError(
            f"{type(model).__name__} carries no config: from_pretrained and from_config give it one"
        )
    options = BuildOptions(ignore=config.ignored, overrides=config.found)
    return part_of(family_of(config), config["architectures"][0], config, options)


def torch_twin(model: nnx.Module) -> Any:
    """`torch_ref`'s model of the same parts, with the weights of `model` in their dtype, in evaluation mode."""
    weights = state_dict(model)
    twin = described(model).build("torch_ref").to(next(iter(weights.values())).dtype)
    twin.load_state_dict(weights)
    return twin.eval()
