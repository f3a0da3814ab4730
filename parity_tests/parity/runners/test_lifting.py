"""float32 inside a module is float64 where the mathematics is compared, and itself where the rounding is."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from jax_attn.parity import compare, compare_training, first_divergence, trace_modules
from jax_attn.parity.runners.lifting_flax import lifted_flax
from jax_attn.parity.runners.lifting_torch import lifted_torch
from jax_attn.parity.runners.places import Places
from parity_tests.parity.pairs import draw

EXACT = ("float64",)
WIDTH, HALF = 14, 7


def told(report, lane="float64"):
    """What the report says of float32 inside."""
    [reason] = {e.reason for e in report.left_out if (e.lane, e.name) == (lane, "float32 inside")}
    return reason


# One operation on each side.

FLAX = {
    "astype": lambda x: jnp.sin(x.astype(jnp.float32)),
    "a constant": lambda x: x * jnp.float32(0.1),
    "arange": lambda x: x / (1 + jnp.arange(5, dtype=jnp.float32)),
    "lax": lambda x: jax.lax.add(x.astype(jnp.float32), jnp.full(x.shape, 0.3, jnp.float32)),
    "dot": lambda x: jax.lax.dot(x.T, x, preferred_element_type=jnp.float32),
    "einsum": lambda x: jnp.einsum("ab,cb->ac", x, x, preferred_element_type=jnp.float32),
    "sum": lambda x: jnp.sum(x, 0, dtype=jnp.float32),
    "jit": jax.jit(lambda x: jnp.exp(x.astype("float32"))),
    "remat": jax.checkpoint(lambda x: jnp.exp(x.astype("float32"))),
    "custom_jvp": lambda x: jax.nn.relu(x.astype(jnp.float32)) * jax.nn.silu(x),
    "vmap": jax.vmap(lambda row: row.astype(jnp.float32) / 3),
    "scan": lambda x: jax.lax.scan(
        lambda c, row: (c + row.astype(jnp.float32) / 3, c), np.zeros(5, np.float32), x
    )[0],
    "while": lambda x: jax.lax.while_loop(
        lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] / 3), (0, x.astype(jnp.float32))
    )[1],
    "fori": lambda x: jax.lax.fori_loop(0, 3, lambda _, c: c / 3 + x[0].astype(c.dtype), jnp.zeros(5, jnp.float32)),
    "cond": lambda x: jax.lax.cond(
        x[0, 0] > 0, lambda: jnp.ones((), jnp.float32) / 3, lambda: x.astype(jnp.float32).sum()
    ),
    "complex": lambda x: jnp.abs(jax.lax.complex(x.astype(jnp.float32), x.astype(jnp.float32) / 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", FLAX)
@pytest.mark.parametrize("jitted", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_flax_computes_in_64_bits(name, jitted):
    """What the code asks for in float32 is what it would be with float64 in its place; gradients too."""
    function, x, places = FLAX[name], draw(4, 5), Places()
    compiled = jax.jit if jitted else lambda f: f

    def loss(x):
        return jnp.sum(jnp.abs(function(x)) ** 2)

    differentiate = jax.jacfwd if name == "while" else jax.grad  # which JAX has no reverse of
    with jax.enable_x64(True):
        before = jax.eval_shape(function, jnp.asarray(x)).dtype
        with lifted_flax(places, anew=True):
            gradient = compiled(differentiate(loss))(jnp.asarray(x))
        step = 1e-6 * draw(4, 5, seed=1)
        with lifted_flax(Places()):
            above, below = map(compiled(loss), (jnp.asarray(x + step), jnp.asarray(x - step)))
            slope = (above - below) / 2
        assert gradient.dtype == jnp.float64
        # The slope between two near points has 9 digits in float64, and none in float32.
        np.testing.assert_allclose((gradient * step).sum(), slope, rtol=1e-7)
        assert places
        assert jax.eval_shape(function, jnp.asarray(x)).dtype == before  # nothing is left behind


TORCH = {
    "float": lambda x: x.float().sin(),
    "to": lambda x: x.to(torch.float32).sin(),
    "to of another": lambda x: x.to(torch.zeros(1, dtype=torch.float32)).sin(),
    "type": lambda x: x.type(torch.float32).sin(),
    "type by name": lambda x: x.type("torch.FloatTensor").sin() + x.type(torch.FloatTensor),
    "softmax": lambda x: torch.nn.functional.softmax(x, -1, dtype=torch.float32),
    "sum": lambda x: x.sum(0, dtype=torch.float32),
    "arange": lambda x: x.float() / torch.arange(1, 6, dtype=torch.float32),
    "tensor": lambda x: x.float() * torch.tensor(0.1, dtype=torch.float32),
    "in place": lambda x: torch.zeros(4, 5, dtype=torch.float32).add_(x).div(3),
    "written to": lambda x: _written(torch.zeros(4, 5, dtype=torch.float32), x),
    "from NumPy": lambda x: x.float() * torch.from_numpy(np.array([3], np.float32)) / 7,
    "autocast": lambda x: _uncast(x),
    "complex": lambda x: torch.view_as_complex(x[:, :4].contiguous().float().reshape(4, 2, 2)).abs() / 3,
    "polar": lambda x: torch.polar(torch.ones(4, 5, dtype=torch.float32), x.float()).real / 3,
    "checkpoint": lambda x: torch.utils.checkpoint.checkpoint(
        lambda x: x.float().exp().sin(), x, use_reentrant=False
    ),
    "by hand": lambda x: Exp.apply(x),
}  # fmt: skip


def _written(out, x):
    out[1:] = x[1:].float() / 3
    return out


def _uncast(x):
    with torch.autocast("cpu", enabled=False):
        return x.float() @ x.float().mT / 3


class Exp(torch.autograd.Function):
    """A gradient by hand, in float32."""

    @staticmethod
    def forward(ctx, x):
        y = x.float().exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, gradient):
        return gradient.float() * ctx.saved_tensors[0].float()


@pytest.mark.parametrize("name", TORCH)
def test_torch_computes_in_64_bits(name):
    function, places = TORCH[name], Places()
    x = torch.tensor(draw(4, 5), requires_grad=True)

    def loss(x):
        return (function(x) ** 2).sum()

    with lifted_torch(places):
        (gradient,) = torch.autograd.grad(loss(x), [x])
        step = 1e-6 * torch.tensor(draw(4, 5, seed=1))
        slope = (loss(x + step) - loss(x - step)) / 2
    assert slope.dtype == gradient.dtype == torch.float64
    np.testing.assert_allclose((gradient * step).sum(), slope.detach(), rtol=1e-7)
    assert places
    assert x.float().dtype == torch.float32


# Whole modules: rotary positions, whose angles are large numbers, and norms.


def frequencies(base=10000.0):
    return 1.0 / base ** (torch.arange(0, WIDTH, 2).float() / WIDTH)


class TorchRotary(torch.nn.Module):
    """Turns the two halves of its input; `keeps` a buffer of the frequencies, of tables, or none."""

    def __init__(self, keeps, longest=600):
        super().__init__()
        self.keeps = keeps
        if keeps == "frequencies":
            self.register_buffer("inv_freq", frequencies(), persistent=False)
        angles = torch.arange(longest).float()[:, None] * frequencies()
        if keeps == "tables":
            wide = torch.cat([angles, angles], -1)
            self.register_buffer("cos", wide.cos())
            self.register_buffer("sin", wide.sin())
        if keeps == "attributes":
            wide = torch.cat([angles, angles], -1)
            self.cos, self.sin = wide.cos(), wide.sin()
        if keeps == "complex":
            self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles))

    def forward(self, x):
        if self.keeps == "complex":
            turns = self.turns[: x.shape[1]]
            turned = torch.complex(*x.float().chunk(2, -1)) * turns
            return torch.cat([turned.real, turned.imag], -1).type_as(x)
        if self.keeps in ("tables", "attributes"):
            cos, sin = self.cos[: x.shape[1]], self.sin[: x.shape[1]]
        else:
            steps = self.inv_freq if self.keeps == "frequencies" else frequencies().to(x.device)
            angles = torch.arange(x.shape[1], dtype=torch.float32)[:, None] * steps.float()
            angles = torch.cat([angles, angles], -1)
            cos, sin = angles.cos(), angles.sin()
        a, b = x.chunk(2, -1)
        return x * cos.to(x.dtype) + torch.cat([-b, a], -1) * sin.to(x.dtype)


class FlaxRotary(nnx.Module):
    """The same with float32 inside, or in the dtype that there is; wrong with `base`, `first` or `halves`."""

    def __init__(self, dtype=jnp.float32, base=10000.0, first=0, halves=True):
        self.dtype_inside, self.base, self.first, self.halves = dtype, base, first, halves

    def __call__(self, x):
        steps = 1.0 / self.base ** (jnp.arange(0, WIDTH, 2, dtype=self.dtype_inside) / WIDTH)
        angles = (jnp.arange(x.shape[1], dtype=self.dtype_inside) + self.first)[:, None] * steps
        cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
        a, b = jnp.split(x, 2, -1) if self.halves else (x[..., ::2], x[..., 1::2])
        turned = a * cos - b * sin, b * cos + a * sin
        return jnp.concatenate(turned, -1) if self.halves else jnp.stack(turned, -1).reshape(x.shape)


KEEPS = ("frequencies", "tables", "complex", "nothing")


@pytest.mark.parametrize("keeps", KEEPS)
@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(None, marks=pytest.mark.slow)])
def test_a_right_rotary_port_passes(keeps, dtype):
    """Whatever torch keeps in float32, and whether or not Flax asks for it."""
    report = compare(FlaxRotary(dtype), TorchRotary(keeps), draw(1, 512, WIDTH), lanes=EXACT)
    report.assert_passed()
    if dtype is not None:
        assert "flax in FlaxRotary.__call__ (test_lifting.py:" in told(report)
    if keeps != "tables":
        assert "TorchRotary.forward (test_lifting.py:" in told(report)


def test_a_right_rotary_port_passes_at_8192_positions():
    x = draw(1, 8192, WIDTH)
    lanes = ("float64", "float32", "bfloat16")
    report = compare(FlaxRotary(), TorchRotary("frequencies"), x, lanes=lanes)
    report.assert_passed()
    assert "for the truth: torch in " in told(report, "bfloat16")


def tables(base=10000.0, first=0, longest=600):
    """Cosines and sines as a port makes them in float32 when it is built."""
    steps = (1 / base ** (np.arange(0, WIDTH, 2, dtype=np.float32) / WIDTH)).astype(np.float32)
    angles = (np.arange(longest, dtype=np.float32) + np.float32(first))[:, None] * steps
    return np.cos(angles), np.sin(angles)


class FlaxTables(nnx.Module):
    """Keeps frequencies, or tables, in float32."""

    def __init__(self, keeps, **wrong):
        self.keeps = keeps
        cos, sin = tables(**wrong)
        steps = 1 / wrong.get("base", 10000.0) ** (np.arange(0, WIDTH, 2, dtype=np.float32) / WIDTH)
        self.first, self.base = wrong.get("first", 0), wrong.get("base", 10000.0)
        if keeps == "frequencies":
            self.steps = nnx.Variable(jnp.asarray(steps, jnp.float32))
        elif keeps == "variables":
            self.cos, self.sin = nnx.Variable(jnp.asarray(cos)), nnx.Variable(jnp.asarray(sin))
        elif keeps == "arrays":
            self.cosines, self.sines = jnp.asarray(cos), jnp.asarray(sin)

    def __call__(self, x):
        length = x.shape[1]
        if self.keeps == "frequencies":
            angles = (jnp.arange(length) + self.first)[:, None] * self.steps[...]
            cos, sin = jnp.cos(angles), jnp.sin(angles)
        elif self.keeps == "variables":
            cos, sin = self.cos[:length], self.sin[:length]
        elif self.keeps == "nothing":  # NumPy knows them better than float32, in every lane
            exponents = np.arange(0, WIDTH, 2) / WIDTH
            angles = (np.arange(length) + self.first)[:, None] / self.base**exponents
            cos, sin = jnp.asarray(np.cos(angles), x.dtype), jnp.asarray(np.sin(angles), x.dtype)
        else:
            cos, sin = self.cosines[:length], self.sines[:length]
        a, b = jnp.split(x, 2, -1)
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


OURS, THEIRS = ("frequencies", "variables", "arrays", "nothing"), (*KEEPS, "attributes")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [  # every other pair, in which each way of either side is met
        pytest.param(ours, theirs, marks=[pytest.mark.slow] * ((i + j) % 2))
        for i, ours in enumerate(OURS)
        for j, theirs in enumerate(THEIRS)
    ],
)
def test_a_port_may_keep_in_float32_what_torch_computes(ours, theirs):
    if (ours, theirs) == ("nothing", "frequencies"):
        return  # NumPy's frequencies are not in the program that JAX sees
    x = draw(1, 512, WIDTH)
    compare(FlaxTables(ours), TorchRotary(theirs), x, lanes=("float64", "bfloat16")).assert_passed()
    wrong = FlaxTables(ours, base=10000.1)
    assert not compare(wrong, TorchRotary(theirs), x, lanes=EXACT, trace=False).passed


@pytest.mark.parametrize("number", [32.0, 32.0001])
def test_a_number_that_torch_keeps_in_float32(number):
    """As transformers' Gemma keeps the scale of its embedding."""

    class Torch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.tensor(32**0.5), persistent=False)

        def forward(self, x):
            return x * self.scale.to(x.dtype)

    class Flax(nnx.Module):
        def __call__(self, x):
            return x * jnp.asarray(number**0.5, x.dtype)

    report = compare(Flax(), Torch(), draw(2, 5), lanes=EXACT, trace=False)
    assert report.passed == (number == 32)


@pytest.mark.parametrize("wrong", [False, True])
def test_a_fill_is_no_rounding(wrong):
    """The lowest number is another in float64 than in float32, and makes nothing beside it uncertain."""

    class Torch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            steps = torch.arange(5)
            bias = -0.3 * (steps[:, None] - steps).abs().float()
            self.register_buffer("bias", bias, persistent=False)

        def forward(self, x):
            hidden = ~torch.ones(5, 5, dtype=torch.bool).tril()
            scores = (x @ x.mT + self.bias).masked_fill(hidden, torch.finfo(x.dtype).min)
            return scores.softmax(-1) @ x

    class Flax(nnx.Module):
        def __call__(self, x):
            steps = jnp.arange(5)
            bias = -(0.2 if wrong else 0.3) * jnp.abs(steps[:, None] - steps).astype(jnp.float32)
            bias = jnp.where(jnp.tril(jnp.ones((5, 5), bool)), bias, jnp.finfo(x.dtype).min)
            return jax.nn.softmax(x @ x.mT + bias) @ x

    assert compare(Flax(), Torch(), draw(2, 5, 3), lanes=EXACT, trace=False).passed != wrong


@pytest.mark.parametrize(
    ("wrong", "keeps"),
    [
        pytest.param(wrong, keeps, marks=[pytest.mark.slow] * ((i + j) % 2), id=f"{wrong}-{keeps}")
        for i, wrong in enumerate((dict(base=10000.1), dict(first=1), dict(halves=False)))
        for j, keeps in enumerate(KEEPS)
    ],
)
def test_a_wrong_angle_is_caught(keeps, wrong):
    flax, theirs = nnx.Dict(), torch.nn.ModuleDict({"norm": TorchNorm(), "turn": TorchRotary(keeps)})
    flax = nnx.Dict(norm=FlaxNorm(), turn=FlaxRotary(**wrong))

    def run(module, x):
        return module["turn"](module["norm"](x))

    x = draw(1, 64, WIDTH)
    options = dict(call_flax=run, call_torch=run, modules={"turn": "turn"})
    assert not compare(flax, theirs, x, lanes=EXACT, trace=False, **options).passed
    found = first_divergence(flax, theirs, x, **options)
    assert (found.flax_path, found.direction) == ("turn", "forward")


class TorchNorm(torch.nn.Module):
    """As transformers' `LlamaRMSNorm`, line by line."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(WIDTH))

    def forward(self, hidden):
        dtype = hidden.dtype
        hidden = hidden.to(torch.float32)
        variance = hidden.pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden * torch.rsqrt(variance + 1e-6)).to(dtype)


class FlaxNorm(nnx.Module):
    def __init__(self, dtype=jnp.float32, eps=1e-6):
        self.weight = nnx.Param(jnp.ones(WIDTH))
        self.dtype_inside, self.eps = dtype, eps

    def __call__(self, x):
        y = x if self.dtype_inside is None else x.astype(self.dtype_inside)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + self.eps)
        return self.weight[...] * y.astype(x.dtype)


class Upcast(torch.nn.LayerNorm):
    """As Whisper's and CLIP's: it runs in float32 alone."""

    def forward(self, x):
        return super().forward(x.float()).type(x.dtype)


def test_norms_with_float32_inside():
    x = draw(2, 5, WIDTH)
    for dtype in (jnp.float32, None):
        compare(FlaxNorm(dtype), TorchNorm(), x).assert_passed()
    assert not compare(FlaxNorm(eps=1.001e-6), TorchNorm(), 1e-3 * x, lanes=EXACT).passed
    flax = nnx.LayerNorm(WIDTH, epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0))
    compare(flax, Upcast(WIDTH), x, lanes=("float64", "float32")).assert_passed()


def test_16_bits_inside_are_not_lifted():
    x = draw(2, 5, WIDTH)
    assert not compare(FlaxNorm(jnp.bfloat16), TorchNorm(), x, lanes=EXACT).passed
    assert not compare(FlaxNorm(jnp.float16), TorchNorm(), x, lanes=EXACT).passed


def test_a_trace_is_in_float64_throughout():
    trace = trace_modules(FlaxNorm(), TorchNorm(), draw(2, 5, WIDTH))
    assert trace.whole.output.error < 1e-14
    assert any("float32 inside computed in float64" in note for note in trace.notes)


@pytest.mark.parametrize("eps", [1e-6, 1.1e-6])
def test_a_training_with_float32_in_its_loss(eps):
    report = compare_training(
        FlaxNorm(eps=eps), TorchNorm(), [(1e-2 * draw(3, WIDTH),)],
        loss=(
            lambda module, x: jnp.mean(module(x).astype(jnp.float32) ** 2),
            lambda module, x: (module(x).float() ** 2).mean(),
        ),
        optimizer=(optax.sgd(0.1), lambda parameters: torch.optim.SGD(parameters, 0.1)),
        steps=3, lanes=EXACT,
    )  # fmt: skip
    assert report.passed == (eps == 1e-6)
    assert "TorchNorm.forward" in told(report)
