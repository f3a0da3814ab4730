"""Operations are named by the submodule that computes them, whatever it is called through."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jax_attn.training.sizing.flops import count_flops
from jax_attn.training.sizing.module_scopes import module_of

M, K, N = 7, 11, 13
PRODUCT = 2 * M * K * N
X = jax.ShapeDtypeStruct((M, K), jnp.float32)


class Base(nnx.Module):
    def __init__(self, rngs):
        self.inner = nnx.Linear(K, K, rngs=rngs)

    def __call__(self, x):
        return self.inner(x)


class Derived(Base):
    def __call__(self, x):
        return super().__call__(x)


class Custom(nnx.Module):
    """Submodules in a dictionary and a list, one of them shared, one of a class with a base."""

    def __init__(self, rngs):
        self.named = nnx.Dict(first=nnx.Linear(K, N, rngs=rngs))
        self.listed = nnx.List([nnx.Linear(N, K, rngs=rngs), Derived(rngs)])
        self.shared = self.named["first"]

    def __call__(self, x):
        x = self.listed[0](self.named["first"](x))
        return self.shared(self.listed[1](x)) @ jnp.ones((N, 2))


def through_merge(model):
    graphdef, state = nnx.split(model)
    return lambda state, x: nnx.merge(graphdef, state)(x), state


def through_nnx_jit(model):
    return nnx.jit(lambda model, x: model(x)), model


def through_grad(model):
    def forward(model, x):
        return nnx.grad(lambda x, model: model(x).sum())(x, model)

    return forward, model


@pytest.mark.parametrize("way", [through_merge, through_nnx_jit, through_grad])
def test_each_operation_is_its_modules(way):
    model = nnx.eval_shape(lambda: Custom(nnx.Rngs(0)))
    function, given = way(model)
    found = count_flops(function, given, X)
    times = 2 if way is through_grad else 1  # forward, and the gradient by the input
    own = 2 * M * N * 2
    assert found.by_module == {
        "named.first": times * 2 * PRODUCT,
        "listed.0": times * PRODUCT,
        "listed.1.inner": times * 2 * M * K * K,
        "": times * own,
    }


def test_nothing_stays_behind():
    """What is traced afterwards bears no names, and a program that was traced before is found again."""
    call, traces = nnx.Linear.__call__, []
    graphdef, state = nnx.split(nnx.eval_shape(lambda: nnx.Linear(K, N, rngs=nnx.Rngs(0))))

    @jax.jit
    def run(state, x):
        traces.append(None)
        return nnx.merge(graphdef, state)(x)

    jax.make_jaxpr(run)(state, X)
    count_flops(run, state, X)
    text = jax.make_jaxpr(run)(state, X).pretty_print(name_stack=True)
    assert nnx.Linear.__call__ is call
    assert module_of(text) is None
    assert len(traces) == 2


@pytest.mark.parametrize(
    ("name_stack", "module"),
    [
        (
            "jit(step)/transpose(jvp(module:))/module:layers.0/while/body/module:layers.0.gate/dot_general",
            "layers.0.gate",
        ),
        ("jit(step)/transpose(jvp(module:head))/mul", "head"),
        ("jit(step)/module:/add", ""),
        ("jit(step)/add", None),
    ],
)
def test_the_innermost_module_of_a_name(name_stack, module):
    assert module_of(name_stack) == module
