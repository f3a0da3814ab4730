"""What is to be known of a family of checkpoints: a table of its configuration and of its keys."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from flax import nnx

from jax_attn.models.bert import draw_normal
from jax_attn.models.part import Part
from jax_attn.weights.config import ConfigRules
from jax_attn.weights.rules import Names, rename

INITIALIZER_RANGE = 0.02

Settings = SimpleNamespace
"""The attributes of a `config.json` that the model is built from, as `config.hidden_size`."""


def normal_weights(module: nnx.Module, config: Mapping[str, Any]) -> None:
    """Weights from a normal distribution, as wide as `config.json` says, and biases of 0."""
    draw_normal(module, initializer_range(config))


def initializer_range(config: Mapping[str, Any]) -> float:
    """The standard deviation of initial weights that `config.json` asks for."""
    return config.get("initializer_range") or config.get("init_std") or INITIALIZER_RANGE


@dataclass(frozen=True)
class Head:
    """A model of the family with a head.

    Attributes:
        build: from the model without it, as a part, and the settings; its attribute `model` is that model.
        names: what turns our keys of the head into those of the file.
        settings: what it wants the model without it to be.
        defaults: attributes of `config.json` that it is built from besides.
        prefix: what the file puts before the keys of the model without it; None is the family's.
        doubles: the names of a tensor that has several of them in some files. Where the model has the first, as a
            tied bias, the others must hold the same; where it has another, nobody reads them, and they are kept as
            they are.
        tied: keys of the file that repeat a tensor of the model without the head, and our key of that, where the
            head has no such tensor of its own.
        optional: as in `Family`, with keys as the model with the head has them.
        others: what the keys begin with of parts that it has not, which are left out and told.
    """

    build: Callable[[Part, Settings], Part]
    names: Names = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    prefix: str | None = None
    doubles: Sequence[str] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    optional: Mapping[str, str] = field(default_factory=dict)
    others: Sequence[str] = ()


@dataclass(frozen=True)
class Family:
    """A family of models: its checkpoints are built by `build`, and loaded and saved by `names`.

    Attributes:
        name: what the classes of Hugging Face's `architectures` begin with: "Bert" of "BertModel".
        model_types: the values of `model_type` in `config.json` that mean it.
        means: whether it is this family by what `config.json` says besides, where several have a `model_type`.
        rules: what `config.json` may say.
        build: from the settings, the model without a head, as a part.
        names: what turns our keys of that model into those of its file, behind the `model.` of one with a head too.
        anchor: our key of a tensor that every file has; where it is found tells the prefix.
        heads: by the name of the class in `architectures`.
        prefix: what a file of a model with a head puts before the keys of the model without it.
        optional: settings that are False where the file does not have that key of ours.
        constants: keys of the file whose tensors hold nothing learned, `*` standing for anything.
        others: what the keys of other heads begin with, which are left out and told.
        old_names: what turns the keys of today into those of the first files.
        describe: the `config.json` of a module that was built by hand; None is that only those are saved that
            `from_config` or `from_pretrained` made.
        draw: gives a module that was built the initial weights of the family, from its `config.json`.
    """

    name: str
    model_types: Sequence[str]
    rules: ConfigRules
    build: Callable[[Settings], Part]
    names: Names
    anchor: str
    heads: Mapping[str, Head] = field(default_factory=dict)
    prefix: str = ""
    optional: Mapping[str, str] = field(default_factory=dict)
    means: Callable[[Mapping[str, Any]], bool] = lambda config: True
    constants: Sequence[str] = ()
    others: Sequence[str] = ()
    old_names: Names = ()
    describe: Callable[[Any], dict[str, Any] | None] | None = None
    draw: Callable[[nnx.Module, Mapping[str, Any]], None] = normal_weights

    @property
    def prefixes(self) -> set[str]:
        """What a file may put before the keys of the model without a head."""
        return {"", self.prefix, *(head.prefix or "" for head in self.heads.values())}

    @property
    def base(self) -> str:
        """What Hugging Face calls the model without a head."""
        return f"{self.name}Model"

    def architecture(self, config: Mapping[str, Any], wanted: str | None = None) -> str:
        """The name of the class to build: the one that is `wanted`, or else that of `config.json`.

        A head that is not known here is none: the model without it is built.

        Raises:
            ValueError: the class that is wanted is not known, or `config.json` does not list names.
        """
        listed = config.get("architectures") or ()
        if not isinstance(listed, list | tuple) or not all(isinstance(name, str) for name in listed):
            raise ValueError(f"architectures={listed!r} must be a list of names")
        if wanted is not None:
            for name in (wanted, f"{self.name}{wanted}"):
                if isinstance(wanted, str) and self.knows(name):
                    return name
            known = ", ".join((self.base, *self.heads))
            raise ValueError(f"architecture must be one of {known}, got {wanted!r}")
        return next(filter(self.knows, listed), self.base)

    def knows(self, architecture: str) -> bool:
        """Whether it is the model or one of its heads."""
        return architecture == self.base or architecture in self.heads

    def rules_for(self, architecture: str) -> ConfigRules:
        """What `config.json` may say of that class."""
        head = self.heads.get(architecture)
        parts = {**self.optional, **({} if head is None else head.optional)}
        return self.rules.with_defaults(
            {**dict.fromkeys(parts, True), **({} if head is None else head.defaults)}
        )

    def part(self, architecture: str, settings: Mapping[str, Any]) -> Part:
        """The model, as a part: `part.build("jax_attn", rngs=rngs)` makes it, and "torch_ref" its twin."""
        head = self.heads.get(architecture)
        own = {} if head is None else {k: v for k, v in head.settings.items() if k not in head.optional}
        given = Settings(**{**settings, **own})
        return self.build(given) if head is None else head.build(self.build(given), given)

    def keys(self, architecture: str) -> Names:
        """What turns the keys of our model into those of Hugging Face's."""
        head = self.heads.get(architecture)
        if head is None:
            return self.names
        prefix = self.prefix if head.prefix is None else head.prefix
        return (*self.names, *head.names, (r"^model\.", prefix))

    def anchor_in(self, architecture: str, names: Names) -> str:
        """The key of the anchor in a file whose keys `names` gives."""
        return rename(f"model.{self.anchor}" if architecture in self.heads else self.anchor, names)
