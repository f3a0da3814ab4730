"""One tensor of several names: tied embeddings and heads, both directions."""

import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from jax_attn.parity.compare import compare
from jax_attn.weights import StateDictError, load_state_dict, state_dict
from jax_attn.weights.rules import TorchLayout

IDS = np.arange(6).reshape(2, 3)


class Torch(nn.Module):
    """T5's: one table for encoder, decoder and head."""

    def __init__(self, tied: bool = True):
        super().__init__()
        self.shared = nn.Embedding(7, 3)
        self.encoder, self.decoder = (nn.ModuleDict({"embed": nn.Embedding(7, 3)}) for _ in range(2))
        self.lm_head = nn.Linear(3, 7, bias=False)
        if tied:
            for owner in (self.encoder.embed, self.decoder.embed, self.lm_head):
                owner.weight = self.shared.weight

    def forward(self, ids):
        return self.lm_head(self.encoder.embed(ids) + self.decoder.embed(ids))


class Flax(nnx.Module):
    def __init__(self, name: str = "shared"):
        setattr(self, name, nnx.Embed(7, 3, rngs=nnx.Rngs(0)))
        self.name = name

    @property
    def table(self):
        return getattr(self, self.name)

    def __call__(self, ids):
        return self.table.attend(self.table(ids) + self.table(ids))


class Declared(Flax):
    torch_layout = TorchLayout(
        tied=tuple(
            (f"{name}.weight", "shared.embedding") for name in ("encoder.embed", "decoder.embed", "lm_head")
        )
    )


def copies(tensors) -> dict:
    """As a file gives them: each in memory of its own."""
    return {key: tensor.clone() for key, tensor in tensors.items()}


@pytest.mark.parametrize("form", [dict, copies, lambda tensors: {k: v.numpy() for k, v in tensors.items()}])
@pytest.mark.parametrize(("name", "names"), [("shared", ()), ("wte", [(r"^wte\.", "decoder.embed.")])])
def test_a_table_goes_there_and_back(form, name, names):
    theirs = Torch()
    flax = load_state_dict(Flax(name), form(theirs.state_dict()), names=names)
    np.testing.assert_array_equal(flax.table.embedding[...], theirs.shared.weight.detach())
    other = Torch()
    other.load_state_dict(state_dict(flax, names=names))  # strictly
    np.testing.assert_array_equal(other.lm_head.weight.detach(), theirs.shared.weight.detach())
    load_state_dict(flax, other.state_dict(), names=names)  # and once more


@pytest.mark.parametrize("give", [lambda t: state_dict(Flax(), like=t), lambda t: state_dict(Declared())])
def test_a_module_that_was_never_loaded_gives_every_name(give):
    theirs = Torch()
    theirs.load_state_dict(give(theirs.state_dict()))
    np.testing.assert_array_equal(theirs.lm_head.weight.detach(), Flax().table.embedding[...])


def test_a_declared_tie_takes_the_names_that_its_owner_gets():
    names = [(r"^model\.", "transformer.")]
    given = state_dict(nnx.Dict(model=Declared()), names=names)
    assert "transformer.lm_head.weight" in given
    load_state_dict(nnx.Dict(model=Declared()), given, names=names)


@pytest.mark.parametrize("loaded", [False, True])
def test_tables_that_differ_are_refused(loaded):
    flax = load_state_dict(Flax(), Torch().state_dict()) if loaded else Flax()
    before = np.array(flax.table.embedding[...])
    error = "shared: .*lm_head.weight are one weight" if loaded else r"unexpected: lm_head\.weight \(7, 3\)"
    with pytest.raises(StateDictError, match=error):
        load_state_dict(flax, Torch(tied=False).state_dict())
    np.testing.assert_array_equal(flax.table.embedding[...], before)


def test_equal_layers_are_no_tie():
    """A stack starts from copies of one layer: a layer too many is lost, not shared."""
    one = nn.Linear(3, 3, bias=False).weight.detach()
    flax = nnx.Dict(layers=nnx.List([nnx.Linear(3, 3, use_bias=False, rngs=nnx.Rngs(0)) for _ in range(2)]))
    with pytest.raises(StateDictError, match=r"unexpected: layers\.2\.weight"):
        load_state_dict(flax, {f"layers.{number}.weight": one.clone() for number in range(3)})


def test_equal_vectors_and_constants_are_no_tie():
    flax = nnx.Dict(fc=nnx.Linear(3, 3, rngs=nnx.Rngs(0)))
    theirs = {"fc.weight": torch.zeros(3, 3), "fc.bias": torch.rand(3)}
    for key in theirs:
        with pytest.raises(StateDictError, match="unexpected: more"):
            load_state_dict(flax, {**theirs, "more": theirs[key].clone()})


def test_a_comparison_wants_one_tensor_and_not_equal_ones():
    """What starts equal is trained apart."""
    theirs = Torch(tied=False)
    for parameter in theirs.parameters():
        parameter.data.copy_(theirs.shared.weight.data)
    with pytest.raises(StateDictError, match=r"unexpected: .*lm_head\.weight"):
        compare(Flax(), theirs, IDS, lanes=["float64"])


def test_a_fused_tensor_of_two_names():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.MultiheadAttention(6, 2)
            self.b = self.a

    theirs = Twice()
    flax = nnx.Dict(a=nnx.MultiHeadAttention(2, 6, decode=False, rngs=nnx.Rngs(0)))
    load_state_dict(flax, theirs.state_dict())
    theirs.load_state_dict(state_dict(flax))
