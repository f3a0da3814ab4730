"""The weights of a comparison: what has no counterpart and learns nothing is left out and told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.nn.primitives import Buffer
from jax_attn.parity.compare import compare
from jax_attn.parity.locate import first_divergence
from jax_attn.parity.runners.weight_transfer import MOST_ERRORS, carry
from jax_attn.parity.training.compare import compare_training
from jax_attn.weights import StateDictError, from_pretrained
from jax_attn.weights.families.bert import NAMES
from parity_tests.parity.pairs import draw

EXACT = {"lanes": ["float64"]}
IDS = np.arange(10).reshape(2, 5)


def rngs() -> nnx.Rngs:
    return nnx.Rngs(0)


def told(report) -> dict[str, str]:
    return {entry.name: entry.reason for entry in report.left_out}


class TorchCausal(torch.nn.Module):
    """Two layers, each with a buffer of its own for its mask, as nanoGPT has them."""

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(3, 3)
            self.register_buffer("mask", torch.ones(1, 7, 7).tril())

        def forward(self, x):
            scores = (self.fc(x) @ x.mT).masked_fill(self.mask[:, :5, :5] == 0, -torch.inf)
            return scores.softmax(-1) @ x

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(self.Layer() for _ in range(2))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class FlaxCausal(nnx.Module):
    """`own_mask`: a constant of another shape, by the same name or by another."""

    class Layer(nnx.Module):
        def __init__(self, own_mask: str):
            self.fc = nnx.Linear(3, 3, rngs=rngs())
            if own_mask:
                setattr(self, own_mask, Buffer(jnp.tril(jnp.ones((5, 5), bool))))

        def __call__(self, x):
            scores = jnp.where(jnp.tril(jnp.ones((5, 5), bool)), self.fc(x) @ x.mT, -jnp.inf)
            return jax.nn.softmax(scores) @ x

    def __init__(self, own_mask: str = ""):
        self.layers = nnx.List([self.Layer(own_mask) for _ in range(2)])

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("weights", ["torch", pytest.param("flax", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("own_mask", "reasons"),
    [
        ("", {"layers.*.mask": "a buffer of torch; flax has none of this name"}),
        (
            "causal",
            {
                "layers.*.mask": "a buffer of torch; flax has none of this name",
                "layers.*.causal": "a constant of flax; torch has none of this name",
            },
        ),
        (
            "mask",
            {"layers.*.mask": "a constant on both sides, of another shape or dtype: each keeps its own"},
        ),
    ],
)
def test_constants_without_a_counterpart(weights, own_mask, reasons):
    report = compare(FlaxCausal(own_mask), TorchCausal(), draw(2, 5, 3), weights=weights, **EXACT)
    assert report.passed
    assert told(report) == reasons


@pytest.mark.parametrize(
    ("flax", "theirs", "mutation"),
    [
        (lambda: nnx.LayerNorm(3, rngs=rngs()), torch.nn.BatchNorm1d(3), r"unexpected: .*running_mean"),
        (lambda: nnx.Linear(3, 3, use_bias=False, rngs=rngs()), torch.nn.Linear(3, 3), "unexpected: .*bias"),
    ],
)
def test_what_is_learned_is_not_left_out(flax, theirs, mutation):
    """Parameters, and what a norm has seen in training."""
    with pytest.raises(StateDictError, match=mutation):
        carry(flax(), theirs, "torch", ())


def test_statistics_that_torch_does_not_track_are_left_out():
    carried = carry(
        nnx.BatchNorm(3, rngs=rngs()), torch.nn.BatchNorm1d(3, track_running_stats=False), "torch", ()
    )
    reason = "a statistic of flax, which torch does not track"
    assert carried.left_out == dict.fromkeys(("running_mean", "running_var"), reason)


def test_a_parameter_is_not_left_out_for_being_a_constant_of_another_shape_in_flax():
    class Torch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(3))

    flax = nnx.Dict(gain=Buffer(jnp.ones(4)))
    with pytest.raises(StateDictError, match="gain"):
        carry(flax, Torch(), "torch", ())


class TorchTied(torch.nn.Module):
    def __init__(self, tied: bool = True):
        super().__init__()
        self.emb = torch.nn.Embedding(11, 3)
        self.head = torch.nn.Linear(3, 11, bias=False)
        if tied:
            self.head.weight = self.emb.weight

    def forward(self, ids):
        return self.head(self.emb(ids))


class FlaxTied(nnx.Module):
    def __init__(self):
        self.emb = nnx.Embed(11, 3, rngs=rngs())

    def __call__(self, ids):
        return self.emb.attend(self.emb(ids))


@pytest.mark.parametrize("weights", ["torch", "flax"])
def test_a_tied_head_is_one_table(weights):
    report = compare(FlaxTied(), TorchTied(), IDS, weights=weights, **EXACT)
    assert report.passed
    assert told(report) == {"head.weight": "torch's emb.weight by another name, which flax does not have"}
    assert [result.name for result in report.select(kind="gradient")] == ["emb.weight"]
    with pytest.raises(StateDictError, match=r"unexpected: head\.weight"):  # a table of its own
        compare(FlaxTied(), TorchTied(tied=False), IDS, weights=weights, **EXACT)


def test_a_shared_variable_that_torch_names_once():
    class Flax(nnx.Module):
        def __init__(self):
            self.emb = nnx.Embed(11, 3, rngs=rngs())
            self.again = self.emb

        def __call__(self, ids):
            return self.again(ids) + self.emb(ids)

    class Torch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.emb = torch.nn.Embedding(11, 3)

        def forward(self, ids):
            return self.emb(ids) + self.emb(ids)

    report = compare(Flax(), Torch(), IDS, **EXACT)
    assert report.passed
    assert told(report) == {"again.weight": "flax's emb.weight by another name, which torch does not have"}


@pytest.mark.parametrize("weights", ["torch", "flax"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_another_dtype_are_the_same_numbers(dtype, weights):
    theirs = TorchTied().to(dtype)
    before = theirs.emb.weight.clone()
    report = compare(FlaxTied(), theirs, IDS, lanes=["float64", "float32"], weights=weights)
    assert report.passed, str(report)
    name = str(dtype).removeprefix("torch.")
    assert told(report)["dtype of the weights"].startswith(f"{name} in torch, float32 in flax")
    assert torch.equal(theirs.emb.weight, before)
    assert theirs.emb.weight.dtype == dtype


def test_state_that_is_no_tensor_is_left_out():
    class Torch(torch.nn.Linear):
        def get_extra_state(self):
            return {"scale": 1.0}

        def set_extra_state(self, state):
            pass

    report = compare(nnx.Linear(3, 5, rngs=rngs()), Torch(3, 5), draw(2, 3), **EXACT)
    assert report.passed
    assert told(report) == {"_extra_state": "state of torch that is no tensor"}


def test_trainings_and_traces_do_with_less_too():
    assert first_divergence(FlaxTied(), TorchTied(), IDS) is None
    loss = (lambda m, x: (m(x) ** 2).mean(),) * 2
    import optax

    sgd = optax.sgd(0.1), lambda p: torch.optim.SGD(p, 0.1)
    options = {"loss": loss, "optimizer": sgd, "steps": 2, **EXACT}
    report = compare_training(FlaxTied(), TorchTied(), [(IDS,)], **options)
    assert report.passed, str(report)
    assert "head.weight" in told(report)
    assert compare_training(FlaxCausal("mask"), TorchCausal(), [(draw(2, 5, 3),)], **options).passed


@pytest.mark.parametrize(("mirrored", "dimensions"), [(False, 1), (True, 2)])
def test_a_transposed_convolution(mirrored, dimensions):
    class Flax(nnx.Module):
        def __init__(self):
            kernel = (3, 4)[:dimensions]
            options = {"padding": "VALID", "transpose_kernel": not mirrored, "rngs": rngs()}
            self.conv = nnx.ConvTranspose(5, 2, kernel, strides=(2,) * dimensions, **options)

        def __call__(self, x):
            return jnp.moveaxis(self.conv(jnp.moveaxis(x, 1, -1)), -1, 1)

    class Torch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            kind = torch.nn.ConvTranspose1d if dimensions == 1 else torch.nn.ConvTranspose2d
            self.conv = kind(5, 2, (3, 4)[:dimensions], stride=2)

        def forward(self, x):
            return self.conv(x)

    report = compare(Flax(), Torch(), draw(2, 5, *(7, 6)[:dimensions]), **EXACT)
    assert report.passed, str(report)


def test_what_does_not_fit_says_how_to_go_on():
    flax = nnx.Dict(attn=nnx.Dict(q=nnx.Linear(3, 3, rngs=rngs())), fc=nnx.Linear(3, 5, rngs=rngs()))
    theirs = torch.nn.ModuleDict(
        {"attention": torch.nn.ModuleDict({"query": torch.nn.Linear(3, 3)}), "fc": torch.nn.Linear(3, 5)}
    )
    with pytest.raises(StateDictError) as caught:
        carry(flax, theirs, "torch", ())
    message = str(caught.value)
    assert len(caught.value.errors) == 4
    rule = [(r"\battn\.q\b", "attention.query")]
    assert message.endswith(f"names={rule} makes all of it fit")
    assert "\n" not in message
    assert not carry(flax, theirs, "torch", rule).left_out

    many = nnx.Dict({f"a{number}": nnx.Linear(3, 3, rngs=rngs()) for number in range(20)})
    with pytest.raises(StateDictError, match=rf"\.\.\. and {42 - MOST_ERRORS} more") as caught:
        carry(many, torch.nn.Linear(3, 3), "torch", ())
    assert str(caught.value).count("missing: ") == MOST_ERRORS


def test_a_parametrized_weight_and_an_undeclared_stack_are_recognised():
    theirs = torch.nn.ModuleDict({"fc": torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 3))})
    flax = nnx.Dict(fc=nnx.Linear(3, 3, rngs=rngs()))
    with pytest.raises(StateDictError, match=r'remove_parametrizations\(module.fc, "weight"\)'):
        carry(flax, theirs, "torch", ())
    torch.nn.utils.parametrize.remove_parametrizations(theirs.fc, "weight")
    carry(flax, theirs, "torch", ())

    class Stack(nnx.Module):
        def __init__(self):
            build = nnx.vmap(lambda r: nnx.Linear(3, 5, rngs=r), in_axes=0, out_axes=0)
            self.layers = build(rngs().split(4))

    theirs = torch.nn.ModuleDict({"layers": torch.nn.ModuleList(torch.nn.Linear(3, 5) for _ in range(4))})
    with pytest.raises(StateDictError, match=r'stacked = \("layers",\) in class Stack'):
        carry(Stack(), theirs, "torch", ())


def test_a_frozen_table_that_flax_computes_is_left_out():
    class Torch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Parameter(torch.sin(torch.arange(5.0))[:, None], requires_grad=False)

        def forward(self, x):
            return x + self.table

    class Flax(nnx.Module):
        def __call__(self, x):
            return x + jnp.sin(jnp.arange(5.0))[:, None].astype(x.dtype)

    report = compare(Flax(), Torch(), draw(2, 5, 3), **EXACT)
    report.assert_passed()
    assert told(report)["table"] == "frozen in torch; flax has none of this name"


def test_a_fused_conv1d_is_turned_where_flax_keeps_its_parts_apart():
    pytest.importorskip("transformers")
    from transformers.pytorch_utils import Conv1D

    flax = nnx.Dict(a=nnx.Linear(3, 3, rngs=rngs()), b=nnx.Linear(3, 3, rngs=rngs()))
    theirs = torch.nn.ModuleDict({"both": Conv1D(6, 3)})
    names = [(r"^a\.(.*)", r"both.\1[0]"), (r"^b\.(.*)", r"both.\1[1]")]
    options = dict(names=names, **EXACT)
    calls = dict(
        call_flax=lambda m, x: jnp.concatenate([m["a"](x), m["b"](x)], -1),
        call_torch=lambda m, x: m["both"](x),
    )
    compare(flax, theirs, draw(2, 3), **options, **calls).assert_passed()


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (lambda: torch.jit.trace(torch.nn.Linear(3, 3), torch.zeros(2, 3)), "compiled by torch.jit"),
        (lambda: torch.nn.Sequential(torch.nn.LazyLinear(3)), r"torch_module\.0 has weights of no shape yet"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_cannot_be_looked_into_is_refused(theirs, message):
    with pytest.raises(ValueError, match=message):
        carry(FlaxTied(), theirs(), "torch", ())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (TorchTied(), FlaxTied()),
            "flax_module must be a flax.nnx.Module, got a TorchTied; the flax module",
        ),
        ((FlaxTied(), FlaxTied()), "torch_module must be a torch.nn.Module, got a FlaxTied"),
        ((FlaxTied(), TorchTied(), "both"), 'weights must be "torch"'),
        ((FlaxTied(), TorchTied(), "torch", {"a": "b"}), "names must be a list of pairs .* got a dict"),
        ((FlaxTied(), TorchTied(), "torch", [("(", "b")]), "no regular expression"),
        ((FlaxTied(), TorchTied(), "torch", [("e", r"\3")]), "invalid group reference"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    modules, rest = arguments[:2], [*arguments[2:], *("torch", ())[len(arguments) - 2 :]]
    with pytest.raises(ValueError, match=message):
        carry(*modules, *rest)


@pytest.mark.parametrize(
    "pad_token_id", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, None))]
)
def test_a_padding_row_has_no_gradient_on_either_side(tmp_path, pad_token_id):
    """As transformers' BertModel has it; 1 is RoBERTa's."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 5}
    config = transformers.BertConfig(
        vocab_size=11, **sizes, max_position_embeddings=7, pad_token_id=pad_token_id
    )
    theirs = transformers.BertModel(config).eval()
    theirs.save_pretrained(tmp_path)
    options = {"whole_model": True, "trace": False, **EXACT}
    report = compare(from_pretrained(tmp_path), theirs, IDS, names=NAMES, **options)
    assert report.passed
    assert any("word_embeddings" in result.name for result in report.select(kind="gradient"))
