"""Traces of pairs that are not ours, and of what cannot be compared."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.parity.compare import compare
from jax_attn.parity.locate import first_divergence, trace_modules
from jax_attn.parity.tracing.module_pairs import pair_modules
from jax_attn.parity.tracing.search import find
from parity_tests.parity.pairs import MASK, WIDTH, draw, flax_block, torch_block

X = draw(2, 3, WIDTH)


def linear(features_in: int = WIDTH, features_out: int = WIDTH) -> nnx.Linear:
    return nnx.Linear(features_in, features_out, rngs=nnx.Rngs(0))


# A layer of torch's own, and a port of it with other names.

NAMES = [
    (r"^attention\.(.*)_proj\.", r"self_attn.\1_proj."),
    (r"^mlp\.fc(\d)\.", r"linear\1."),
    (r"^norm_(\d)\.", r"norm\1."),
]


class Attention(nnx.Module):
    def __init__(self, mutation, rngs):
        self.mutation = mutation
        self.in_proj = nnx.Linear(WIDTH, 3 * WIDTH, rngs=rngs)
        self.out_proj = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        q, k, v = (a.reshape(*a.shape[:2], 2, -1) for a in jnp.split(self.in_proj(x), 3, -1))
        if self.mutation == "scale":
            q = q * 1.01
        weights = jax.nn.softmax(jnp.einsum("bqnh,bknh->bnqk", q, k) / q.shape[-1] ** 0.5)
        return self.out_proj(jnp.einsum("bnqk,bknh->bqnh", weights, v).reshape(x.shape))


class Mlp(nnx.Module):
    def __init__(self, mutation, rngs):
        self.mutation = mutation
        self.fc1 = nnx.Linear(WIDTH, 10, rngs=rngs)
        self.fc2 = nnx.Linear(10, WIDTH, rngs=rngs)

    def __call__(self, x):
        y = nnx.gelu(self.fc1(x), approximate=self.mutation == "tanh")
        return self.fc2(jax.lax.stop_gradient(y) if self.mutation == "cut" else y)


class Port(nnx.Module):
    """`torch.nn.TransformerEncoderLayer`, with one mutation injected by name."""

    def __init__(self, mutation="", *, rngs):
        self.mutation = mutation
        self.attention = Attention(mutation, rngs)
        self.mlp = Mlp(mutation, rngs)
        eps = 1e-6 if mutation == "eps" else 1e-5
        self.norm_1 = nnx.LayerNorm(WIDTH, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.norm_2 = nnx.LayerNorm(WIDTH, epsilon=eps, use_fast_variance=False, rngs=rngs)

    def __call__(self, x):
        x = self.norm_1(x + self.attention(x))
        return self.norm_2(x + self.mlp(x) * (2 if self.mutation == "skip" else 1))


def port(mutation=""):
    return Port(mutation, rngs=nnx.Rngs(0))


def original():
    torch.manual_seed(0)
    return torch.nn.TransformerEncoderLayer(WIDTH, 2, 10, activation="gelu", batch_first=True)


def fused_names():
    # torch keeps the projections as bare parameters: in_proj_weight, in_proj_bias
    return [(r"^attention\.in_proj\.", "self_attn.in_proj_"), *NAMES]


@pytest.mark.parametrize(
    ("mutation", "path", "direction"),
    [
        ("", None, None),
        ("scale", "attention", "forward"),
        ("tanh", "", "forward"),  # torch's layer has no module for its MLP: it is in the layer's own code
        ("eps", "norm_2", "forward"),
        ("skip", "", "forward"),
        ("cut", "", "backward"),
    ],
)
def test_a_port_of_a_layer_of_torchs(mutation, path, direction):
    found = first_divergence(port(mutation), original(), X, names=fused_names())
    if path is None:
        assert found is None
        return
    assert (found.flax_path, found.direction) == (path, direction)
    if mutation == "scale":
        assert found.torch_path == "self_attn"
        assert (found.flax_class, found.torch_class) == ("Attention", "MultiheadAttention")
    if mutation == "tanh":
        assert (found.after, found.before) == ("mlp.fc1", "mlp.fc2")
        assert "mlp of flax" in str(found)  # it has no counterpart, and the report says so


def test_its_modules_are_paired_by_their_weights():
    pairs = pair_modules(port(), original(), fused_names())
    assert dict(pairs.pairs) == {
        "": "", "attention": "self_attn", "attention.out_proj": "self_attn.out_proj", "mlp.fc1": "linear1",
        "mlp.fc2": "linear2", "norm_1": "norm1", "norm_2": "norm2",
    }  # fmt: skip
    assert ("flax", "mlp") in pairs.unpaired
    assert ("flax", "attention.in_proj") in pairs.unpaired
    assert ("torch", "dropout1") in pairs.unpaired


def test_pairs_by_hand():
    class Flax(nnx.Module):
        def __init__(self, rngs):
            self.blocks = nnx.List([nnx.Dropout(0.1, rngs=rngs) for _ in range(2)])
            self.last = linear()

        def __call__(self, x):
            for block in self.blocks:
                x = block(x)
            return self.last(x)

    class Torch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gates = torch.nn.ModuleList(torch.nn.Identity() for _ in range(2))
            self.last = torch.nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            for gate in self.gates:
                x = gate(x)
            return self.last(x)

    ours, theirs = Flax(nnx.Rngs(0)), Torch()
    assert [call.path for call in trace_modules(ours, theirs, X).calls] == ["", "last"]
    trace = trace_modules(ours, theirs, X, modules={"blocks.*": "gates.*", "last": None}, backward=False)
    assert [call.path for call in trace.calls] == ["", "blocks.0", "blocks.1"]
    assert [entry[:2] for entry in trace.left_out] == [("flax", "last"), ("torch", "last")]
    with pytest.raises(ValueError, match="flax has no such submodule"):
        trace_modules(ours, theirs, X, modules={"block.0": "gates.0"})
    with pytest.raises(ValueError, match="torch has no such submodule"):
        trace_modules(ours, theirs, X, modules={"blocks.0": "gates.7"})


# Modules that are called more than once, or held more than once.


class FlaxTwice(nnx.Module):
    """`shared` is called three times; `other` is the same module under a second name."""

    def __init__(self, mutation=-1):
        self.shared = linear()
        self.other = self.shared
        self.last = linear()
        self.mutation = mutation

    def __call__(self, x):
        for turn in range(3):
            module = self.shared if turn < 2 else self.other
            x = jnp.tanh(module(x) * (1.001 if turn == self.mutation else 1.0))
        return self.last(x)


class TorchTwice(torch.nn.Module):
    def __init__(self, tied=True):
        super().__init__()
        self.shared = torch.nn.Linear(WIDTH, WIDTH)
        self.other = self.shared if tied else torch.nn.Linear(WIDTH, WIDTH)
        self.other.load_state_dict(self.shared.state_dict())
        self.last = torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        for module in (self.shared, self.shared, self.other):
            x = torch.tanh(module(x))
        return self.last(x)


@pytest.mark.parametrize("tied", [True, False])
def test_shared_modules(tied):
    """Also where one side holds one module, and the other two with the same weights."""
    trace = trace_modules(FlaxTwice(), TorchTwice(tied), X, isolated=False)
    assert find(trace) is None or not tied  # the gradients of two tensors are not that of one
    assert [(c.path, c.flax.number) for c in trace.calls[1:]] == [
        ("shared", 0), ("shared", 1), ("shared", 2), ("last", 0)
    ]  # fmt: skip
    assert trace.calls[3].torch.path == ("shared" if tied else "other")
    assert not trace.left_out


def test_which_call_it_is():
    class Faulty(nnx.Linear):
        times = 0

        def __call__(self, x):
            Faulty.times += 1
            return super().__call__(x) * (1.001 if Faulty.times == 2 else 1)

    ours = FlaxTwice()
    ours.shared = ours.other = Faulty(WIDTH, WIDTH, rngs=nnx.Rngs(0))
    found = first_divergence(ours, TorchTwice(), X, isolated=False)
    assert (found.flax_path, found.call) == ("shared", 2)
    assert "call 2" in str(found)
    between = first_divergence(FlaxTwice(mutation=1), TorchTwice(), X)
    assert (between.flax_path, between.after, between.before) == ("", "shared", "shared")


def test_a_module_that_only_one_side_calls():
    class Once(FlaxTwice):
        def __call__(self, x):
            return self.last(jnp.tanh(self.shared(jnp.tanh(self.shared(x)))))

    trace = trace_modules(Once(), TorchTwice(), X)
    assert ("torch", "shared", "flax calls its counterpart less often") in trace.left_out
    found = find(trace)
    assert (found.flax_path, found.before) == ("", "last")
    assert "flax calls its counterpart less often" in str(found)


# What cannot be compared, and what goes wrong.


def flax_of(function, *children):
    class Flax(nnx.Module):
        def __init__(self):
            self.inner = linear()

        def __call__(self, *args):
            return function(self.inner, *args)

    return Flax()


def torch_of(function, **options):
    class Torch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(WIDTH, WIDTH)

        def forward(self, *args):
            return function(self.inner, *args)

    return Torch()


def pair_of(ours, theirs=None):
    return flax_of(ours), torch_of(theirs or (lambda inner, x: inner(x)))


def test_a_module_that_raises():
    class Bad(nnx.Linear):
        def __call__(self, x):
            raise KeyError("no such thing")

    ours, theirs = pair_of(lambda inner, x: inner(x))
    ours.inner = Bad(WIDTH, WIDTH, rngs=nnx.Rngs(0))
    found = first_divergence(ours, theirs, X)
    assert (found.kind, found.flax_path, found.flax_class) == ("raised", "inner", "Bad")
    assert "flax raised KeyError: 'no such thing' in inner (Bad)" in str(found)
    ours, theirs = pair_of(lambda inner, x: inner(x), lambda inner, x: inner(x[..., 1:]))
    found = first_divergence(ours, theirs, X)
    assert (found.kind, found.torch_path) == ("raised", "inner")
    assert "torch raised RuntimeError" in str(found)
    ours, theirs = pair_of(lambda inner, x: inner(x).no_such_attribute)
    assert "in the module itself" in str(first_divergence(ours, theirs, X))


def test_what_went_wrong_before_it_raised():
    def ours(inner, x):
        inner(1.5 * x)
        raise ValueError("bad luck")

    found = first_divergence(*pair_of(ours), X)
    assert (found.kind, found.flax_path, found.before) == ("output", "", "inner")
    assert "bad luck" in str(found)


def test_torch_raises_on_the_way_back():
    def theirs(inner, x):
        y = inner(x)
        if y.requires_grad:
            y.register_hook(lambda gradient: gradient.no_such_attribute)
        return y

    trace = trace_modules(*pair_of(lambda inner, x: inner(x), theirs), X)
    assert "torch raised AttributeError" in str(trace.failure)
    assert not trace.backward  # of gradients there is only half
    found = find(trace)
    assert (found.kind, found.direction) == ("raised", "backward")
    assert "torch raised AttributeError" in str(found)


def test_a_gradient_of_zero_is_measured_by_the_others():
    """That of a bias of the keys: it is added to all scores of a row."""

    def much(module, *args):
        return 1e7 * module(*args)

    pair = flax_block(), torch_block(0.0)
    trace = trace_modules(*pair, draw(3, 5, WIDTH), MASK, call_flax=much, call_torch=much)
    assert trace.backward
    assert find(trace) is None


def test_the_first_module_that_gives_nan():
    class Bad(nnx.Linear):
        def __call__(self, x):
            return jnp.sqrt(super().__call__(x))

    ours, theirs = pair_of(lambda inner, x: inner(inner(x)), lambda inner, x: inner(inner(x)))
    ours.inner = Bad(WIDTH, WIDTH, rngs=nnx.Rngs(0))
    found = first_divergence(ours, theirs, X)
    assert (found.flax_path, found.call) == ("inner", 1)
    assert np.isnan(found.error)
    assert "NaN in" in str(found)
    both = first_divergence(*pair_of(lambda i, x: jnp.sqrt(i(x)), lambda i, x: torch.sqrt(i(x))), X)
    assert both is not None  # NaN on both sides is no agreement
    assert "of torch" in str(both)


def test_shapes_that_differ():
    found = first_divergence(*pair_of(lambda inner, x: inner(x)[:, :2]), X)
    assert "shape (2, 2, 6) in flax, (2, 3, 6) in torch" in str(found)
    assert found.flax_path == ""


def test_outputs_that_cannot_be_compared():
    found = first_divergence(*pair_of(lambda inner, x: inner(x), lambda i, x: {"a": i(x) > 0, "b": 1}), X)
    assert found.kind == "not comparable"
    found = first_divergence(*pair_of(lambda inner, x: "text" if inner(x) is not None else 0), X)
    assert found.kind == "not comparable"
    assert "type str" in str(found)


@dataclasses.dataclass
class Output:
    y: object
    extra: object = None


@pytest.mark.parametrize("form", ["tuple", "dict", "dataclass", "one of two"])
def test_outputs_of_any_structure(form):
    make = {
        "tuple": lambda y: (y, y.sum()),
        "dict": lambda y: {"b": y, "a": y.sum()},
        "dataclass": lambda y: Output(y, y.sum()),
        "one of two": lambda y: (y, y.sum()),
    }[form]
    take = {"dict": lambda y: y["b"], "dataclass": lambda y: y.y}.get(form, lambda y: y[0])
    ours = make if form != "one of two" else lambda y: y

    class Flax(nnx.Module):
        def __init__(self):
            self.first, self.second = flax_of(lambda inner, x: ours(inner(x))), linear()

        def __call__(self, x):
            y = self.first(x)
            return self.second(y if form == "one of two" else take(y))

    class Torch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch_of(lambda inner, x: make(inner(x))), torch.nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            return self.second(take(self.first(x)))

    trace = trace_modules(Flax(), Torch(), X)
    first = next(call for call in trace.calls if call.path == "first")
    assert first.output.agrees
    assert first.isolated.agrees
    assert find(trace) is None
    assert bool(first.note) == (form == "one of two")


def test_integer_inputs():
    class Flax(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Embed(7, WIDTH, rngs=rngs)
            self.positions = nnx.Embed(9, WIDTH, rngs=rngs)

        def __call__(self, ids):
            return self.embed(ids) + self.positions(jnp.arange(ids.shape[-1]))

    class Torch(torch.nn.Module):
        def __init__(self, start=0):
            super().__init__()
            self.start = start
            self.embed = torch.nn.Embedding(7, WIDTH)
            self.positions = torch.nn.Embedding(9, WIDTH)

        def forward(self, ids):
            return self.embed(ids) + self.positions(self.start + torch.arange(ids.shape[-1]))

    ids = np.random.default_rng(0).integers(0, 7, (2, 5))
    assert first_divergence(Flax(nnx.Rngs(0)), Torch(), ids) is None
    found = first_divergence(Flax(nnx.Rngs(0)), Torch(start=1), ids)
    assert (found.flax_path, found.before) == ("", "positions")  # the table is right: its positions are not
    assert "an input of positions differs" in str(found)


def test_a_torch_module_in_training_mode():
    ours, theirs = flax_block(), torch_block()
    assert theirs.training
    trace = trace_modules(ours, theirs, draw(3, 5, WIDTH), MASK, backward=False)
    assert trace.notes == ["the torch module came in training mode; both are traced in evaluation mode"]
    assert trace.notes[0] in str(trace)
    assert theirs.training
    assert not trace_modules(ours, theirs.eval(), draw(3, 5, WIDTH), MASK, backward=False).notes


def test_convolutions_in_either_layout():
    class Flax(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(2, 3, (3, 3), padding="VALID", rngs=rngs)

        def __call__(self, x):
            return nnx.relu(self.conv(x)) * 1.001

    class Torch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(2, 3, 3)
            self.act = torch.nn.ReLU(inplace=True)

        def forward(self, x):
            return self.act(self.conv(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)

    trace = trace_modules(Flax(nnx.Rngs(0)), Torch(), draw(2, 5, 7, 2))
    conv = trace.calls[1]
    assert conv.output.agrees  # and in-place ReLU has not overwritten what was kept of it
    assert "torch's axes in the order (0, 2, 3, 1)" in conv.output.detail
    found = find(trace)
    assert (found.flax_path, found.after) == ("", "conv")
    assert "act of torch (no module of flax corresponds to it)" in str(found)


def test_modules_that_are_called_inside_jit():
    @nnx.jit
    def inside(module, x):
        return module(x) * 1.5

    ours, theirs = pair_of(lambda inner, x: inner(inside(inner, x)), lambda inner, x: inner(inner(x)))
    trace = trace_modules(ours, theirs, X)
    assert [call.path for call in trace.calls] == ["", "inner", "inner"]
    assert (find(trace).flax_path, find(trace).after, find(trace).before) == ("", "inner", "inner")


def test_modules_that_are_called_inside_vmap_are_told():
    ours, theirs = pair_of(lambda inner, x: jax.vmap(inner)(x) * 1.5)
    trace = trace_modules(ours, theirs, X)
    assert "inside a transformation" in trace.calls[1].note
    assert "inside a transformation" in str(trace.calls[1].to_json())
    assert find(trace).flax_path == ""
    assert "inner of flax (" in str(find(trace))


def test_neither_module_is_changed():
    ours, theirs = flax_block("tanh GELU"), torch_block()
    before = {key: value.clone() for key, value in theirs.state_dict().items()}
    leaves = jax.tree.leaves(nnx.state(ours, nnx.Param))
    call = type(ours).__call__
    report = compare(ours, theirs, draw(3, 5, WIDTH), MASK, lanes=("float64",), trace=True)
    assert report.first_divergence.flax_path == ""
    assert report.first_divergence.after == "out"
    assert all(torch.equal(value, before[key]) for key, value in theirs.state_dict().items())
    assert all(
        np.array_equal(a, b) for a, b in zip(leaves, jax.tree.leaves(nnx.state(ours, nnx.Param)), strict=True)
    )
    assert not theirs._forward_hooks
    assert not theirs.out._forward_pre_hooks
    assert type(ours).__call__ is call
    assert nnx.Dropout.__call__.__module__.startswith("flax")
    assert not [name for name in vars(ours) if "parity" in name]
