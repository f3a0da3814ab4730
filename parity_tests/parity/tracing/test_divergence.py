"""One mutation at a random place of an encoder: the first divergence is that place, every time."""

import copy
from contextlib import contextmanager
from functools import cache, partial

import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.nn.layers.encoder import Encoder
from jax_attn.parity.cases import Case
from jax_attn.parity.compare import compare
from jax_attn.parity.comparison import Comparison
from jax_attn.parity.lanes import lanes_named
from jax_attn.parity.locate import first_divergence, trace_modules
from jax_attn.parity.report import Report
from jax_attn.parity.runners.calls import Call
from jax_attn.parity.tracing.comparing import Comparer
from jax_attn.parity.tracing.observers import Observer
from jax_attn.parity.tracing.recording import Recording
from jax_attn.parity.tracing.search import find
from jax_attn.parity.tracing.trace import Tracer
from jax_attn.weights.state_dict import load_state_dict
from parity_tests.parity.pairs import draw
from torch_ref.nn.layers.encoder import Encoder as TorchEncoder

LAYERS, DEEP, WIDTH, HEADS, HIDDEN = 4, 12, 8, 2, 12
X = draw(2, 3, WIDTH)
MASK = np.tril(np.ones((2, 3, 3), bool))
CASE = Case("", (X, MASK))
FEW, MANY = range(2), range(50)
in_draws = pytest.mark.parametrize(
    ("layers", "seeds"),
    [(LAYERS, FEW), pytest.param(DEEP, MANY, marks=pytest.mark.slow)],
    ids=["few", "many"],
)


@cache
def pair(scan: bool, layers: int = LAYERS) -> tuple[Encoder, TorchEncoder, Tracer]:
    torch.manual_seed(0)
    theirs = TorchEncoder(layers, WIDTH, HEADS, HIDDEN, norm_placement="pre", final_norm=True)
    ours = Encoder(
        layers, WIDTH, HEADS, HIDDEN, norm_placement="pre", final_norm=True, scan=scan, rngs=nnx.Rngs(0)
    )
    load_state_dict(ours, theirs.state_dict())
    return ours, theirs, Tracer(Comparison(ours, theirs), *lanes_named(["float64"]))


# Mutations, each injected into a module of torch for as long as the context lasts.


@contextmanager
def attribute(name, value, module):
    before = getattr(module, name)
    setattr(module, name, value)
    yield
    setattr(module, name, before)


@contextmanager
def forward(change, module):
    """`change(module, forward, *args, **kwargs)` in place of the module's forward."""
    kind = type(module)

    class Faulty(kind):
        def forward(self, *args, **kwargs):
            return change(self, super().forward, *args, **kwargs)

    Faulty.__name__ = kind.__name__
    module.__class__ = Faulty
    yield
    module.__class__ = kind


@contextmanager
def perturbed(module):
    weight = module.weight.data.clone()
    module.weight.data.view(-1)[1] += 1e-4
    yield
    module.weight.data.copy_(weight)


def other_heads(module, forward, x, *args, **kwargs):
    split = module.split_heads
    order = iter("qkv")
    module.split_heads = lambda *p: split(*p).flip(1) if next(order) == "q" else split(*p)
    try:
        return forward(x, *args, **kwargs)
    finally:
        del module.split_heads


tanh = partial(torch.nn.functional.gelu, approximate="tanh")
LINEAR = tuple(f"attention.{name}_proj" for name in ("q", "k", "v", "out"))
LINEAR += ("feed_forward.up", "feed_forward.down")
NORM = ("attention_norm", "feed_forward_norm")
FORWARD = {
    "weights": (LINEAR + NORM, perturbed),
    "eps": (NORM, partial(attribute, "eps", 1e-6)),
    "activation": (("feed_forward",), partial(attribute, "activation", tanh)),
    "mask not handed on": (("",), partial(forward, lambda self, call, x, mask=None: call(x))),
    "mask passed over": (("attention",), partial(forward, lambda self, call, x, mask=None: call(x))),
    "mask inverted": (("attention",), partial(forward, lambda self, call, x, mask=None: call(x, mask=~mask))),
    "heads of q swapped": (("attention",), partial(forward, other_heads)),
    "post-norm": (("",), partial(attribute, "norm_placement", "post")),
    "output scaled": (
        (*LINEAR, *NORM, "attention", "feed_forward", "dropout"),
        partial(forward, lambda self, call, *args, **kwargs: call(*args, **kwargs) * (1 + 1e-9)),
    ),
}

MASKS = ("mask not handed on", "mask passed over")  # only the isolated run tells one from the other


def cut(self, call, x, *args, **kwargs):
    return call(x.detach(), *args, **kwargs)


def cut_weight(self, call, x):
    return torch.nn.functional.linear(x, self.weight.detach(), self.bias)


def scaled_gradient(self, call, *args, **kwargs):
    y = call(*args, **kwargs)
    y = y.view_as(y)
    return y * 1.001 - 0.001 * y.detach() if y.requires_grad else y


def cut_inside(self, call, x):
    return self.dropout(self.down(self.activation(self.up(x)).detach()))


BACKWARD = {
    "detached input": ((*LINEAR, *NORM, "attention", "feed_forward", "dropout"), partial(forward, cut)),
    "detached weight": (LINEAR, partial(forward, cut_weight)),
    "detached inside": (("feed_forward",), partial(forward, cut_inside)),
    "scaled gradient": ((*LINEAR, *NORM), partial(forward, scaled_gradient)),
}


def drawn(mutations, seed, layers):
    """A mutation, its layer and submodule, and whether the layers are scanned."""
    rng = np.random.default_rng(seed)
    name = list(mutations)[seed % len(mutations)]
    submodules, inject = mutations[name]
    layer, submodule = int(rng.integers(layers)), str(rng.choice(submodules))
    return name, ".".join(part for part in ("layers", str(layer), submodule) if part), inject, bool(seed % 2)


class Remembering(Observer):
    """Keeps one run of Flax, and gives it again: where torch is at mutation, Flax need not run again."""

    def __init__(self, recorder):
        self.events = []
        self.real, self.real_gradients = recorder.record, recorder.record_gradients
        self.whole = recorder.record(Call.of(CASE), self).whole
        self.gradients = None

    def given(self, call, args, kwargs):
        self.events.append((call, "given", args, kwargs))
        return args, kwargs

    def returned(self, call, value):
        self.events.append((call, "returned", value))
        return value

    def record(self, call, observer, tape=None):
        if not isinstance(observer, Comparer):
            return self.real(call, observer, tape=tape)
        recording = Recording("flax")
        recording.whole = copy.copy(self.whole)
        observer.start()
        for kept, event, *values in self.events:
            if event == "given":
                observer.given(recording.begin(kept.path, kept.kind, kept.parameters), *values)
            else:
                recording.running[-1].finished = True
                observer.returned(recording.running[-1], *values)
                recording.end()
        return recording

    def record_gradients(self, *args, **kwargs):
        self.gradients = self.gradients or self.real_gradients(*args, **kwargs)
        return self.gradients


@pytest.fixture
def one_run_of_flax(monkeypatch, layers):
    for scan in (False, True):
        recorder = pair(scan, layers)[2].flax
        remembered = Remembering(recorder)
        monkeypatch.setattr(recorder, "record", remembered.record)
        monkeypatch.setattr(recorder, "record_gradients", remembered.record_gradients)


@pytest.mark.usefixtures("one_run_of_flax")
@in_draws
def test_forward(layers, seeds):
    for seed in seeds:
        name, path, inject, scan = drawn(FORWARD, seed, layers)
        _, theirs, tracer = pair(scan, layers)
        with inject(theirs.get_submodule(path)):
            trace = tracer.trace(CASE, isolated=name in MASKS, backward=False)
        found = find(trace)
        assert found is not None, (name, path)
        assert (found.direction, found.flax_path, found.torch_path) == ("forward", path, path), (name, scan)
        assert not found.difference.agrees
        assert found.given.agrees


@pytest.mark.usefixtures("one_run_of_flax")
@in_draws
def test_backward(layers, seeds):
    for seed in seeds:
        name, path, inject, scan = drawn(BACKWARD, seed, layers)
        _, theirs, tracer = pair(scan, layers)
        with inject(theirs.get_submodule(path)):
            found = find(tracer.trace(CASE, isolated=False))
        assert found is not None, (name, path)
        assert (found.direction, found.flax_path, found.torch_path) == ("backward", path, path), (name, scan)
        assert (found.kind == "parameter gradient") == (name == "detached weight")
        assert found.given is None or found.given.agrees  # torch has none of a detached output


@pytest.mark.parametrize("scan", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_correct_pair_has_none(scan):
    trace = pair(scan)[2].trace(CASE)
    assert find(trace) is None
    assert trace.backward
    assert len(trace.calls) == 1 + LAYERS * 13 + 1
    assert {(side, path.rpartition(".")[2]) for side, path, _ in trace.left_out} == {("torch", "dropout")}
    for call in trace.calls:
        assert call.output.agrees
        assert call.inputs.agrees
        assert call.isolated.agrees
        assert call.output_gradient.agrees
        assert call.input_gradient.agrees


def test_isolated_is_told_from_inherited():
    """Two mutations: each is seen where it is, and what follows is not blamed."""
    _, theirs, tracer = pair(True)
    faulty = {"layers.1.attention.k_proj", "layers.2.feed_forward"}
    with (
        perturbed(theirs.get_submodule("layers.1.attention.k_proj")),
        attribute("activation", tanh, theirs.get_submodule("layers.2.feed_forward")),
    ):
        trace = tracer.trace(CASE, backward=False)
    assert {call.path for call in trace.calls if not call.isolated.agrees} == faulty
    assert sum(not call.output.agrees for call in trace.calls) > 25
    assert find(trace).flax_path == "layers.1.attention.k_proj"


@pytest.mark.slow
def test_isolated_backward():
    _, theirs, tracer = pair(False)
    faulty = {"layers.1.attention.v_proj", "layers.2.feed_forward"}
    with (
        forward(cut, theirs.get_submodule("layers.1.attention.v_proj")),
        forward(cut_inside, theirs.get_submodule("layers.2.feed_forward")),
    ):
        trace = tracer.trace(CASE)
    isolated = {call.path: call.isolated_gradient for call in trace.calls}
    assert {path for path, error in isolated.items() if error and not error.agrees} == faulty
    assert find(trace).flax_path == "layers.2.feed_forward"


@pytest.mark.parametrize("scan", [False, True])
def test_a_mutation_in_flax(scan):
    """Weights of its own in one layer of the stack, and in torch another."""
    ours, theirs, _ = pair(scan)
    ours = nnx.clone(ours)
    layers = ours.layers if scan else ours.layers[2]
    kernel = layers.feed_forward.down.kernel
    kernel[...] = kernel[...].at[(2, 0, 0) if scan else (0, 0)].add(1e-3)
    found = first_divergence(ours, theirs, X, MASK, weights=None, backward=False)
    assert found.flax_path == "layers.2.feed_forward.down"
    assert (found.flax_class, found.torch_class, found.call) == ("Linear", "Linear", 1)
    assert not found.own_code
    assert not found.isolated.agrees
    assert found.difference.index[-1] == 0


def test_it_says_where_in_the_code():
    _, theirs, tracer = pair(False)
    with attribute("activation", tanh, theirs.get_submodule("layers.3.feed_forward")):
        found = find(tracer.trace(CASE, backward=False))
    assert found.own_code
    assert (found.after, found.before) == ("layers.3.feed_forward.up", "layers.3.feed_forward.down")
    text = str(found)
    assert "after layers.3.feed_forward.up and before layers.3.feed_forward.down" in text
    assert text.startswith("first divergence, forward: layers.3.feed_forward (FeedForward)")
    assert f"flax {found.difference.flax:.6g}, torch {found.difference.torch:.6g}" in text


@pytest.mark.parametrize("mode", [False, True])
def test_either_graph_mode(mode):
    ours, theirs, _ = pair(True)
    with nnx.set_graph_mode(mode), attribute("eps", 1e-3, theirs.get_submodule("layers.3.attention_norm")):
        found = first_divergence(ours, theirs, X, MASK, backward=False, isolated=False)
    assert found.flax_path == "layers.3.attention_norm"


@pytest.mark.slow
def test_remat():
    theirs = TorchEncoder(2, WIDTH, HEADS, HIDDEN)
    ours = Encoder(2, WIDTH, HEADS, HIDDEN, scan=True, remat=True, rngs=nnx.Rngs(0))
    with forward(cut, theirs.get_submodule("layers.1.feed_forward.up")):
        found = first_divergence(ours, theirs, X)
    assert (found.direction, found.flax_path) == ("backward", "layers.1.feed_forward.up")


@pytest.mark.slow
def test_while_training():
    """The same dropout masks on both sides."""
    theirs = TorchEncoder(2, WIDTH, HEADS, HIDDEN, dropout=0.25, attention_dropout=0.25)
    for scan in (False, True):
        ours = Encoder(
            2, WIDTH, HEADS, HIDDEN, dropout=0.25, attention_dropout=0.25, scan=scan, rngs=nnx.Rngs(0)
        )
        load_state_dict(ours, theirs.state_dict())
        assert find(trace_modules(ours, theirs, X, training=True, backward=False)) is None
        with perturbed(theirs.get_submodule("layers.1.attention.v_proj")):
            found = first_divergence(ours, theirs, X, training=True, weights=None)
        assert found.flax_path == "layers.1.attention.v_proj"


# In a report.


@pytest.mark.slow
def test_the_report_of_a_failed_comparison_says_where():
    ours, theirs, _ = pair(True)
    with attribute("eps", 1e-6, theirs.get_submodule("layers.0.attention_norm")):
        report = compare(ours, theirs, X, MASK, lanes=("float64",), trace=True)
    found = report.first_divergence
    assert found.flax_path == "layers.0.attention_norm"
    assert str(found) in str(report)
    with pytest.raises(AssertionError, match=r"first divergence, forward: layers\.0\.attention_norm"):
        report.assert_passed()
    again = Report.from_json(report.to_json())
    assert again.first_divergence == found
    assert str(again.first_divergence) == str(found)
    assert Report.merged([Report(), report], "all").first_divergence == found
    assert len(report.trace.to_json()["calls"]) == len(report.trace.calls)
    assert "layers.3.feed_forward.down" in str(report.trace)


def test_a_comparison_that_passes_is_not_traced():
    layer = nnx.Linear(3, 5, rngs=nnx.Rngs(0))
    report = compare(layer, torch.nn.Linear(3, 5), draw(2, 3), lanes=("float64",), trace=True)
    assert report.passed
    assert report.first_divergence is None
    assert report.trace is None
