import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.parity.compare import compare, compare_cases
from jax_attn.parity.runners.dropout import DropoutMismatch, Tape, TooFewDraws
from jax_attn.parity.runners.dropout_flax import replay
from jax_attn.parity.runners.dropout_torch import record
from parity_tests.parity.pairs import CASES, draw, flax_block, torch_block

DROPOUT = ("dropout",)
F = torch.nn.functional


class Flax(nnx.Module):
    """Calls a function with a dropout of its own."""

    def __init__(self, function, rate: float = 0.5, **options):
        self.dropout = nnx.Dropout(rate, rngs=nnx.Rngs(0), **options)
        self.function = function

    def __call__(self, *args):
        return self.function(self.dropout, *args)


class Torch(torch.nn.Module):
    """Calls a function with its mode."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(self.training, *args)


def compare_dropout(flax, theirs, *inputs, rate: float = 0.5, **options):
    return compare(Flax(flax, rate, **options), Torch(theirs), *inputs, lanes=DROPOUT)


# Both sides together.


def test_both_sides_get_the_same_masks():
    report = compare_cases(flax_block(), torch_block(), CASES[:1], lanes=DROPOUT)
    report.assert_passed()
    assert len(report.results) == 12
    # Something was dropped: another mutation of the same size shows in one lane and not in the other.
    lanes = ("float64", *DROPOUT)
    mutation = compare_cases(flax_block("no dropout"), torch_block(), CASES[:1], lanes=lanes, trace=False)
    assert set(mutation.lanes) == set(lanes)
    assert {r.lane for r in mutation.failures} == {"dropout"}


@pytest.mark.parametrize(
    ("mutation", "message"),
    [
        ("dropout rate", "dropout call 1: the rate is 0.26 in flax, 0.25 in torch"),
        ("no dropout", "torch calls dropout 1 times, flax 0: torch's call 1 is of shape (3, 5, 5)"),
        (
            "dropout twice",
            "flax calls dropout more often than torch: call 2, of shape (3, 5, 5), after torch's 1",
        ),
        ("dropout after the values", "dropout call 1: flax draws (3, 5, 6), torch (3, 5, 5)"),
    ],
)
def test_a_difference_in_dropout_is_told(mutation: str, message: str):
    report = compare_cases(flax_block(mutation), torch_block(), CASES[:1], lanes=DROPOUT, trace=False)
    assert [(r.kind, r.name, r.detail) for r in report.results] == [("run", "dropout", message)]
    assert not report.passed


def test_the_lane_is_left_out_where_the_mode_changes_nothing():
    for flax, theirs in (
        (nnx.Linear(5, 3, rngs=nnx.Rngs(0)), torch.nn.Linear(5, 3)),
        (
            Flax(lambda dropout, x: dropout(x), rate=0.0),
            Torch(lambda training, x: F.dropout(x, 0.0, training)),
        ),
    ):
        report = compare(flax, theirs, draw(2, 5))
        report.assert_passed()
        assert "dropout" not in report.lanes
        assert [entry.lane for entry in report.left_out] == ["dropout"]
        assert "training mode changes nothing" in report.left_out[0].reason


def test_a_mode_without_dropout_is_compared():
    theirs = Torch(lambda training, x: 2 * x if training else x)
    assert not compare_dropout(lambda dropout, x: x, theirs.function, draw(2, 3), rate=0.0).passed
    report = compare_dropout(
        lambda dropout, x: x if dropout.deterministic else 2 * x, theirs.function, draw(2, 3), rate=0.0
    )
    report.assert_passed()
    assert report.lanes == ["dropout"]


@pytest.mark.parametrize(
    ("noise", "name"),
    [
        (lambda x: x * (torch.rand(len(x), 1) > 0.3), "rand"),
        (lambda x: x * x.new_empty(len(x), 1).bernoulli_(0.7), "bernoulli_"),
        (lambda x: x + torch.randn_like(x), "randn_like"),
        (lambda x: x + torch.rand(x.shape, generator=torch.Generator()), "rand"),
        (lambda x: x * F.gumbel_softmax(x), "within some function"),
        (lambda x: x * np.random.rand(), "within some function"),
    ],
)
def test_noise_that_is_no_dropout_cannot_be_compared(noise, name: str):
    theirs = Torch(lambda training, x: noise(x) if training else x)
    report = compare(Flax(lambda dropout, x: x), theirs, draw(5, 3), lanes=("float64", "dropout"))
    report.assert_passed()
    assert report.lanes == ["float64"]
    (entry,) = report.left_out
    assert (entry.lane, entry.name) == ("dropout", "(all)")
    assert f"torch draws random numbers outside of dropout ({name})" in entry.reason
    assert "1 not compared" in str(report).splitlines()[0]


@pytest.mark.parametrize(("rate", "lanes"), [(0.0, ["dropout"]), (0.1, [])])
def test_numbers_drawn_in_vain_do_not_matter(rate: float, lanes: list[str]):
    """Layers that are skipped by chance, as in transformers: drawn for even at a rate of 0."""

    def theirs(training, x):
        skipped = training and torch.rand([]) < rate
        return F.dropout(x if skipped else 2 * x, 0.5, training)

    report = compare_dropout(lambda dropout, x: dropout(2 * x), theirs, draw(5, 3))
    assert report.lanes == lanes
    assert all(result.passed for result in report.results)
    assert bool(report.left_out) is not bool(lanes)


def test_dropout_in_flax_alone_is_a_difference():
    report = compare_dropout(lambda dropout, x: dropout(x), lambda training, x: x, draw(20, 3))
    assert "call 1, of shape (20, 3), after torch's 0" in report.failures[0].detail
    report = compare_dropout(
        lambda dropout, x: x, lambda training, x: F.dropout(x, 0.5, training), draw(2, 3)
    )
    assert not report.passed


def test_dropout_that_torch_applies_while_evaluating_is_seen():
    """A `functional.dropout` without its `training` argument drops at any time."""
    flax, theirs = Flax(lambda dropout, x: dropout(x)), Torch(lambda training, x: F.dropout(x))
    assert not compare(flax, theirs, draw(20, 3), lanes=("float64",)).passed
    compare(flax, theirs, draw(20, 3), lanes=DROPOUT).assert_passed()


@pytest.mark.parametrize(
    "theirs",
    [
        lambda training, x: F.dropout(x, 0.5, training),
        lambda training, x: torch.dropout(x, 0.5, training),
        lambda training, x, dropout=F.dropout: dropout(x, p=0.5, training=training),
        lambda training, x, dropout=torch.dropout: dropout(x, 0.5, training),
        lambda training, x: torch.nn.Dropout(0.5).train(training)(x),
        lambda training, x: F.dropout(x.clone(), 0.5, training, inplace=True),
    ],
)
def test_every_way_into_torchs_dropout_is_caught(theirs):
    report = compare_dropout(lambda dropout, x: dropout(x), theirs, draw(20, 3))
    report.assert_passed()


def test_dropout_of_whole_channels():
    report = compare_dropout(
        lambda dropout, x: dropout(x), lambda training, x: F.dropout2d(x, 0.5, training), draw(5, 7, 2, 3),
        broadcast_dims=(2, 3),
    )  # fmt: skip
    report.assert_passed()


def test_rates_of_nought_and_one():
    def ours(dropout, x):
        kept = jax.random.bernoulli(dropout.rngs(), 1.0, x.shape)  # a dropout of one's own may always draw
        none, whole = (nnx.Dropout(rate)(x, deterministic=False) for rate in (1.0, 0.0))
        return none + whole * kept + dropout(x)

    def theirs(training, x):
        return F.dropout(x, 1.0, training) + F.dropout(x, 0.0, training) + F.dropout(x, 0.5, training)

    compare_dropout(ours, theirs, draw(20, 3)).assert_passed()


def test_alpha_dropout_is_refused():
    report = compare_dropout(
        lambda dropout, x: dropout(x), lambda training, x: F.alpha_dropout(x, 0.5, training), draw(2, 3)
    )
    assert "alpha dropout cannot be compared" in report.failures[0].detail


@pytest.mark.parametrize("need_weights", [True, False])
def test_the_dropout_inside_torchs_attention(need_weights: bool):
    """`(b*n, t, s)` there, `(b, n, t, s)` here: the same masks in the same order."""

    def attend(dropout, q, k, v):
        heads = [x.reshape(*x.shape[:2], 2, -1).swapaxes(1, 2) for x in (q, k, v)]
        scores = heads[0] @ heads[1].mT / heads[0].shape[-1] ** 0.5
        out = dropout(jax.nn.softmax(scores)) @ heads[2]
        return out.swapaxes(1, 2).reshape(q.shape)

    def theirs(training, q, k, v):
        identity = torch.eye(6, dtype=q.dtype)
        return F.multi_head_attention_forward(
            *(x.transpose(0, 1) for x in (q, k, v)), 6, 2, torch.cat([identity] * 3), None, None, None, False,
            0.5, identity, None, training=training, need_weights=need_weights,
        )[0].transpose(0, 1)  # fmt: skip

    inputs = draw(2, 5, 6), draw(2, 7, 6, seed=1), draw(2, 7, 6, seed=2)
    report = compare(Flax(attend), Torch(theirs), *inputs, lanes=("float64", "dropout"))
    report.assert_passed()
    assert report.lanes == ["float64", "dropout"]


@pytest.mark.parametrize("mask", ["none", "causal", "boolean", "float", "empty row", "grouped"])
def test_the_fused_kernel_with_dropout_is_taken_apart(mask: str):
    """At rate 0.5 with every mask True it gives half of... the kernel itself, times two."""
    options = {
        "none": {},
        "causal": dict(is_causal=True),
        "boolean": dict(attn_mask=torch.tensor(draw(5, 5) > -1)),
        "float": dict(attn_mask=torch.tensor(draw(5, 5)), scale=0.3),
        "empty row": dict(attn_mask=torch.arange(5)[:, None].expand(5, 5) != 2),
        "grouped": dict(enable_gqa=True),
    }[mask]
    q, k, v = (torch.tensor(draw(2, 4, 5, 6, seed=seed), requires_grad=True) for seed in range(3))
    if mask == "grouped":
        k, v = k[:, :2], v[:, :2]
    expected = F.scaled_dot_product_attention(q, k, v, **options)
    with record(KeepAll()):
        found = F.scaled_dot_product_attention(q, k, v, dropout_p=0.5, **options)
    torch.testing.assert_close(found / 2, expected, rtol=1e-12, atol=1e-12)
    weight = torch.tensor(draw(*expected.shape, seed=3))
    for one, other in zip(
        torch.autograd.grad(found, (q, k, v), 2 * weight / 4),
        torch.autograd.grad(expected, (q, k, v), weight),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


class KeepAll(Tape):
    def draw(self, shape, rate, place=""):
        return np.ones(super().draw(shape, rate, place).shape, bool)


@pytest.mark.parametrize("remat", [False, True])
def test_a_scanned_stack_draws_for_each_layer(remat: bool):
    class Layer(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(6, 6, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return x + self.dropout(jnp.tanh(self.linear(x)))

    class Stack(nnx.Module):
        stacked = ("layers",)

        def __init__(self, rngs):
            self.layers = nnx.vmap(Layer, in_axes=0, out_axes=0)(rngs.split(3))

        def __call__(self, x):
            step = nnx.remat(run_layer, graph=False) if remat else run_layer
            run = nnx.scan(step, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry, graph=False)
            return run(x, self.layers)

    def run_layer(x, layer):
        return layer(x)

    class TorchLayer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(6, 6)
            self.dropout = torch.nn.Dropout(0.5)

        def forward(self, x):
            return x + self.dropout(torch.tanh(self.linear(x)))

    class TorchStack(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList(TorchLayer() for _ in range(3))

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    report = compare(Stack(nnx.Rngs(0)), TorchStack(), draw(2, 5, 6), lanes=("float64", "dropout"))
    report.assert_passed()
    assert {r.name for r in report.select("dropout", "gradient")} >= {
        "layers.0.linear.weight",
        "layers.2.linear.bias",
    }


def test_a_loop_that_is_traced_once_runs_without_jit():
    def ours(dropout, x):
        key = dropout.rngs()

        def turn(i, x):
            return x + jnp.where(jax.random.bernoulli(jax.random.fold_in(key, i), 0.5, x.shape), x / 0.5, 0)

        return jax.lax.fori_loop(0, 3, turn, x)

    def theirs(training, x):
        for _ in range(3):
            x = x + F.dropout(x, 0.5, training)
        return x

    compare_dropout(ours, theirs, draw(4, 3)).assert_passed()


def test_no_mask_stays_behind_in_a_compiled_function():
    """A helper with a compilation of its own must draw anew afterwards."""

    @jax.jit
    def helper(x, key):
        return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x / 0.5, 0)

    def ours(dropout, x):
        return helper(x, dropout.rngs())

    compare_dropout(ours, lambda training, x: F.dropout(x, 0.5, training), draw(20, 3)).assert_passed()
    x = jnp.ones((20, 3))
    with jax.enable_x64(True):
        drawn = [np.asarray(helper(jnp.ones((20, 3)), jax.random.key(i))) for i in range(2)]
    assert not np.array_equal(*drawn)
    expected = jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, x.shape), 2.0, 0.0)
    assert np.array_equal(helper(x, jax.random.key(0)), expected)


class TorchPair(torch.nn.Module):
    """Two dropouts of one shape and rate, and a third of another."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(5, 5)
        self.a, self.b, self.c = torch.nn.Dropout(0.4), torch.nn.Dropout(0.4), torch.nn.Dropout(0.2)

    def forward(self, x):
        h = self.linear(x)
        return self.a(h) * 2 + self.b(h) * 3 + self.c(h.sum(-1, keepdim=True))


class FlaxPair(nnx.Module):
    """The same, in any order of calls; `fault` drops in another place."""

    def __init__(self, order, fault="", names="abc", rate=0.2):
        rngs = nnx.Rngs(0)
        self.linear = nnx.Linear(5, 5, rngs=rngs)
        for name, its in zip(names, (0.4, 0.4, rate), strict=True):
            setattr(self, name, nnx.Dropout(its, rngs=rngs))
        self.order, self.fault, self.names = order, fault, names

    def __call__(self, x):
        h = jnp.tanh(self.linear(x)) if self.fault == "tanh" else self.linear(x)
        given = {"a": h, "b": h, "c": h.sum(-1, keepdims=True)}
        own = dict(zip("abc", self.names, strict=True))
        out = {name: getattr(self, own[name])(given[name]) for name in self.order}
        if self.fault == "one mask":
            out["b"] = out["a"]
        if self.fault == "another place":
            return self.a(h * 2 + h * 3) + out["b"] * 0 + out["c"]
        return out["a"] * 2 + out["b"] * 3 + out["c"]


@pytest.mark.parametrize("order", ["abc", "bac", "cba"])
def test_masks_belong_to_the_paired_module(order: str):
    compare(FlaxPair(order), TorchPair(), draw(7, 5), lanes=DROPOUT).assert_passed()


def test_masks_follow_the_order_where_names_are_crossed():
    compare(FlaxPair("abc", names="bac"), TorchPair(), draw(7, 5), lanes=DROPOUT).assert_passed()


@pytest.mark.parametrize(
    ("fault", "rate"), [("tanh", 0.2), ("one mask", 0.2), ("another place", 0.2), ("", 0.3)]
)
def test_a_fault_beside_another_order_of_calls_is_found(fault: str, rate: float):
    report = compare(FlaxPair("cba", fault, rate=rate), TorchPair(), draw(7, 5), lanes=DROPOUT, trace=False)
    assert not report.passed


def test_an_identical_dropout_is_not_blamed_for_the_order_of_calls():
    report = compare(FlaxPair("cba", "tanh"), TorchPair(), draw(7, 5), lanes=DROPOUT)
    first = str(report).partition("first divergence")[2].splitlines()[0]
    assert "Dropout" not in first


# The tape alone.


def test_other_random_numbers_are_left_alone():
    tape = Tape()
    torch.manual_seed(0)
    expected = torch.randn(3), torch.bernoulli(torch.full((5,), 0.5))
    torch.manual_seed(0)
    with record(tape):
        found = torch.randn(3), torch.bernoulli(torch.full((5,), 0.5))
    assert all(map(torch.equal, expected, found))
    assert not tape.masks
    tape.draw((2,), 0.5)
    key = jax.random.key(0)
    normal = jax.random.normal(key, (3,))
    with replay(tape.masks, tape.draws):
        assert np.array_equal(jax.random.normal(key, (3,)), normal)
        assert np.array_equal(jax.random.bernoulli(key, 0.5, (2,)), tape.masks[0])


def test_the_tape_tells_of_draws_that_do_not_fit():
    tape = Tape()
    tape.draw((2, 3), 0.25)
    key = jax.random.key(0)

    def play(*draws):
        with replay(tape.masks, tape.draws):
            for keep, shape in draws:
                jax.random.bernoulli(key, keep, shape)

    play((0.75, (3, 2)))
    with pytest.raises(TooFewDraws, match="torch calls dropout 1 times, flax 0"):
        play()
    with pytest.raises(DropoutMismatch, match=r"flax draws \(5,\), torch \(2, 3\)"):
        play((0.75, (5,)))
    with pytest.raises(DropoutMismatch, match=r"the rate is 0\.3 in flax, 0\.25 in torch"):
        play((0.7, (2, 3)))
    with pytest.raises(DropoutMismatch, match="more often"):
        play((0.75, (2, 3)), (0.75, (2, 3)))


def test_masks_have_the_rate_they_were_asked_for():
    tape = Tape(seed=3)
    first, second = tape.draw((1000,), 0.25), tape.draw((1000,), 0.25)
    assert not np.array_equal(first, second)
    assert abs(first.mean() - 0.75) < 0.05
    assert np.array_equal(Tape(seed=3).draw((1000,), 0.25), first)
