"""What is to be known of an architecture, so that its checkpoints can be loaded and saved."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jax_attn.weights.config import ConfigRules
from jax_attn.weights.rules import Names


@dataclass(frozen=True)
class Plan:
    """How the tensors of one checkpoint become a module.

    Attributes:
        arguments: the module's constructor arguments.
        names: what turns our keys into those of the file; see `slots`.
        left_out: keys of the file that the module has no use for.
        notes: what the user should know of it, in a few words each.
    """

    arguments: Mapping[str, Any]
    names: Names
    left_out: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Architecture:
    """One kind of model.

    Attributes:
        module: the class.
        model_types: the values of `model_type` in `config.json` that mean it.
        named: whether `architectures` in `config.json` must name the class too.
        rules: what `config.json` may say.
        plan: from the attributes of `config.json` that the model is built from, the keys of its tensors, and the
            `names` of the user.
        describe: a module's `config.json`, read off the module itself.
        names: what turns our keys into those that are saved.
    """

    module: type[Any]
    model_types: Sequence[str]
    named: bool
    rules: ConfigRules
    plan: Callable[[dict[str, Any], Sequence[str], Names], Plan]
    describe: Callable[[Any], dict[str, Any]]
    names: Names

    def is_of(self, config: Mapping[str, Any]) -> bool:
        """Whether a checkpoint with this `config.json` is of this kind."""
        if config["model_type"] not in self.model_types:
            return False
        return not self.named or config.get("architectures") == [self.module.__name__]
