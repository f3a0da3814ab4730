"""Every optimizer against torch's own: 50 steps in float64, to the bound of a module."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from jax_attn.optim import adam_family, optimizers
from jax_attn.optim.clipping import clip_grad_norm, clip_grad_value
from jax_attn.optim.schedules import one_cycle_lr, one_cycle_momentum, step_lr
from jax_attn.parity.tolerances import MODULE

STEPS = 50
SHAPES = {"kernel": (2, 3), "bias": (5,), "scale": (7, 11, 13)}

OURS = {
    torch.optim.SGD: optimizers.sgd,
    torch.optim.RMSprop: optimizers.rmsprop,
    torch.optim.Adagrad: optimizers.adagrad,
    torch.optim.Adam: adam_family.adam,
    torch.optim.AdamW: adam_family.adamw,
    torch.optim.NAdam: adam_family.nadam,
    torch.optim.RAdam: adam_family.radam,
}


def ours(kind, **arguments):
    """An optimizer of ours by torch's class."""
    return OURS[kind](**arguments)


@pytest.fixture(autouse=True)
def _float64():
    """In torch it is the default dtype that counts: NAdam keeps its product of momenta in it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with jax.enable_x64(True):
        yield
    torch.set_default_dtype(before)


def problem(seed=0, smallest=1e-4):
    """Parameters, and every step's gradients: of both signs and of many sizes.

    The gradients do not follow from the parameters. Where they do, a training run can blow up a last digit:
    torch, started one rounding away from itself, was 3e-12 away after 50 steps of an Adam with short memory.
    What is left of that is coupled decay where gradients are small: `lr · weight_decay / sqrt(v)` above 2.
    """
    rng = np.random.default_rng(seed)
    params = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    sizes = {
        name: np.exp(rng.uniform(np.log(smallest), np.log(10.0), size=shape))
        for name, shape in SHAPES.items()
    }
    return params, {name: sizes[name] * rng.normal(size=(STEPS, *shape)) for name, shape in SHAPES.items()}


def run_jax(tx, params, grads):
    """The parameters after every step, all in one compiled scan."""

    def step(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    @jax.jit
    def run(params, grads):
        return jax.lax.scan(step, (params, tx.init(params)), grads)[1]

    return run(params, grads)


def run_torch(build, params, grads, *, scheduler=None, clip=None):
    params = {name: torch.nn.Parameter(torch.tensor(p)) for name, p in params.items()}
    optimizer = build(params.values())
    schedule = scheduler(optimizer) if scheduler else None
    seen = []
    for t in range(STEPS):
        for name, p in params.items():
            p.grad = torch.tensor(grads[name][t])
        if clip:
            clip(params.values())
        optimizer.step()
        if schedule:
            schedule.step()
        seen.append({name: p.detach().numpy().copy() for name, p in params.items()})
    return {name: np.stack([step[name] for step in seen]) for name in params}


def error(a, b):
    """The largest over steps and parameters, as the float64 lane measures it."""
    return max(np.max(np.abs(a[name] - b[name])) / max(1.0, np.max(np.abs(b[name]))) for name in b)


def difference(kind, tx=None, scheduler=None, clip=None, data=None, **arguments):
    """Ours (or `tx`) against torch's `kind`, with the same arguments."""
    data = data or problem()
    tx = tx or ours(kind, **arguments)
    theirs = run_torch(partial(kind, **arguments), *data, scheduler=scheduler, clip=clip)
    return error(run_jax(tx, *data), theirs)


CASES = {
    "sgd": (torch.optim.SGD, {}),
    "sgd momentum": (torch.optim.SGD, dict(lr=0.01, momentum=0.9, weight_decay=0.1)),
    "sgd dampening": (torch.optim.SGD, dict(lr=0.01, momentum=0.9, dampening=0.3)),
    "sgd dampening alone": (torch.optim.SGD, dict(lr=0.01, dampening=0.3)),
    "sgd nesterov": (torch.optim.SGD, dict(lr=0.01, momentum=0.8, nesterov=True, maximize=True)),
    "rmsprop": (torch.optim.RMSprop, {}),
    "rmsprop momentum": (torch.optim.RMSprop, dict(momentum=0.9, weight_decay=0.1, alpha=0.9)),
    "rmsprop centered": (torch.optim.RMSprop, dict(centered=True, eps=1e-3, momentum=0.5, maximize=True)),
    "adagrad": (torch.optim.Adagrad, {}),
    "adagrad all": (
        torch.optim.Adagrad,
        dict(lr=0.1, lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=0.5, maximize=True),
    ),
    "adam": (torch.optim.Adam, {}),
    "adam coupled": (torch.optim.Adam, dict(lr=0.01, betas=(0.8, 0.99), eps=1e-4, weight_decay=0.3)),
    "adam amsgrad": (torch.optim.Adam, dict(amsgrad=True, betas=(0.9, 0.9), maximize=True)),
    "adam decoupled": (torch.optim.Adam, dict(decoupled_weight_decay=True, weight_decay=0.3)),
    "adam betas 0": (torch.optim.Adam, dict(betas=(0.0, 0.0), eps=1.0)),
    "adam long memory": (torch.optim.Adam, dict(betas=(0.9, 0.99999))),
    "adamw": (torch.optim.AdamW, {}),
    "adamw amsgrad": (torch.optim.AdamW, dict(amsgrad=True, weight_decay=0.3, betas=(0.5, 0.6))),
    "nadam": (torch.optim.NAdam, {}),
    "nadam coupled": (torch.optim.NAdam, dict(weight_decay=0.3, momentum_decay=0.1, maximize=True)),
    "nadam decoupled": (torch.optim.NAdam, dict(weight_decay=0.3, decoupled_weight_decay=True)),
    "radam": (torch.optim.RAdam, {}),
    "radam coupled": (torch.optim.RAdam, dict(lr=0.1, weight_decay=0.3, betas=(0.7, 0.95), maximize=True)),
    "radam decoupled": (torch.optim.RAdam, dict(weight_decay=0.3, decoupled_weight_decay=True)),
    "radam long memory": (torch.optim.RAdam, dict(lr=0.1, betas=(0.9, 0.9999))),
    "radam longer memory": (torch.optim.RAdam, dict(lr=0.1, betas=(0.9, 0.99999))),
    "radam never adapts": (torch.optim.RAdam, dict(betas=(0.9, 0.6))),
}


@pytest.mark.parametrize("case", CASES)
def test_fifty_steps_equal_torch(case):
    kind, arguments = CASES[case]
    assert difference(kind, **arguments) <= MODULE


@pytest.mark.slow
@given(data=st.data(), kind=st.sampled_from(list(OURS)), seed=st.integers(0, 99))
def test_any_hyperparameters_equal_torch(data, kind, seed):
    ranges = {
        "lr": (1e-4, 0.03),
        "eps": (1e-10, 1e-2),
        "weight_decay": (0.0, 0.2),
        "momentum": (0.0, 0.95),
        "dampening": (0.0, 0.9),
        "alpha": (0.5, 0.999),
        "lr_decay": (0.0, 0.5),
        "initial_accumulator_value": (0.0, 1.0),
        "momentum_decay": (0.0, 0.1),
    }
    arguments = {}
    for name in inspect.signature(OURS[kind]).parameters:
        if name in ranges:
            arguments[name] = data.draw(st.floats(*ranges[name]), label=name)
        elif name == "betas":
            arguments[name] = data.draw(st.tuples(st.floats(0.0, 0.95), st.floats(0.3, 0.99999)), label=name)
        elif name != "nesterov" and name != "centered":  # one has rules, the other's rounding is below
            arguments[name] = data.draw(st.booleans(), label=name)
    assert difference(kind, data=problem(seed, smallest=0.1), **arguments) <= MODULE


@pytest.mark.parametrize("kind", OURS)
def test_arguments_and_defaults_are_torchs(kind):
    theirs = dict(inspect.signature(kind).parameters)
    theirs.pop("params")
    mine = inspect.signature(OURS[kind]).parameters
    order = [name for name in theirs if name in mine]
    positional = [name for name in mine if mine[name].kind is not inspect.Parameter.KEYWORD_ONLY]
    assert positional == order[: len(positional)]
    assert {name: p.default for name, p in mine.items()} == {name: theirs[name].default for name in mine}
    choices_of_kernel = {"foreach", "fused", "capturable", "differentiable"}
    assert set(theirs) - set(mine) <= choices_of_kernel


WRONG = {
    "decoupled for coupled decay": ("adam coupled", lambda: adam_family.adamw(0.01, (0.8, 0.99), 1e-4, 0.3)),
    "optax's default decay": ("adamw", lambda: optax.adamw(1e-3)),
    "no dampening": ("sgd dampening", lambda: optax.sgd(0.01, 0.9)),
    "first step dampened": (
        "sgd dampening",
        lambda: optax.chain(optax.scale(0.7), optax.trace(0.9), optax.scale(-0.01)),
    ),
    "eps inside the root": ("rmsprop", lambda: optax.rmsprop(1e-2, 0.99, 1e-8)),
    "optax's adagrad": ("adagrad", lambda: optax.adagrad(1e-2)),
    "largest of corrected moments": ("adam amsgrad", lambda: optax.amsgrad(1e-3, 0.9, 0.9)),
    "optax's nadam": ("nadam", lambda: optax.nadam(2e-3)),
    "optax's radam": ("radam", lambda: optax.radam(1e-3)),
    "eps": ("adam", lambda: adam_family.adam(eps=1e-7)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_variant_is_caught(wrong):
    case, tx = WRONG[wrong]
    kind, arguments = CASES[case]
    assert difference(kind, tx=tx(), **arguments) > 100 * MODULE


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RAdam])
def test_a_schedule_and_clipping_go_along(kind):
    tx = optax.chain(clip_grad_norm(1.0), ours(kind, lr=step_lr(0.05, 7, 0.5)))
    clip = partial(torch.nn.utils.clip_grad_norm_, max_norm=1.0)
    scheduler = partial(torch.optim.lr_scheduler.StepLR, step_size=7, gamma=0.5)
    assert difference(kind, tx=tx, scheduler=scheduler, clip=clip, lr=0.05) <= MODULE
    unclipped = ours(kind, lr=step_lr(0.05, 7, 0.5))
    assert difference(kind, tx=unclipped, scheduler=scheduler, clip=clip, lr=0.05) > 100 * MODULE


def test_clipping_by_value_goes_along():
    tx = optax.chain(clip_grad_value(0.1), optimizers.sgd(0.1))
    clip = partial(torch.nn.utils.clip_grad_value_, clip_value=0.1)
    assert difference(torch.optim.SGD, tx=tx, clip=clip, lr=0.1) <= MODULE


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.RMSprop, torch.optim.AdamW, torch.optim.NAdam])
def test_one_cycle_moves_the_momentum_too(kind):
    scheduler = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=STEPS + 1)
    lr, momentum = one_cycle_lr(0.1, STEPS + 1), one_cycle_momentum(STEPS + 1)
    moved = (
        {"betas": (momentum, 0.999)}
        if "betas" in inspect.signature(kind).parameters
        else {"momentum": momentum}
    )
    start = {} if "betas" in moved else {"momentum": 0.9}
    assert difference(kind, tx=ours(kind, lr=lr, **moved), scheduler=scheduler, **start) <= MODULE
    assert difference(kind, tx=ours(kind, lr=lr, **start), scheduler=scheduler, **start) > 100 * MODULE


@pytest.mark.parametrize("kind", OURS)
def test_states_and_updates_keep_the_parameters_dtype(kind):
    params = {"wide": jnp.ones(3, jnp.float32), "narrow": jnp.ones(5, jnp.bfloat16)}
    flags = {name: True for name in ("amsgrad", "centered") if name in inspect.signature(kind).parameters}
    tx = ours(kind, weight_decay=0.1, **flags)
    updates, state = tx.update(params, tx.init(params), params)
    assert updates["wide"].dtype == jnp.float32
    assert updates["narrow"].dtype == jnp.bfloat16
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert {leaf.dtype for leaf in moments if leaf.shape == (5,)} <= {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in moments if leaf.shape == (3,)} <= {jnp.dtype(jnp.float32)}
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))


def test_float32_keeps_the_digits_of_a_bias_correction():
    """In step 1 the corrections undo the averages, and the update is the sign of the gradient."""
    params = jnp.ones(3, jnp.float32)
    with jax.enable_x64(False):
        for tx, digits in ((adam_family.adam(1.0), 5e-7), (optax.adam(1.0), 1e-4)):
            updates, _ = tx.update(params, tx.init(params), params)
            assert np.max(np.abs(np.asarray(updates, np.float64) + 1.0)) < digits
        assert np.max(np.abs(np.asarray(updates, np.float64) + 1.0)) > 5e-7  # optax's


def test_the_rate_changes_without_compiling_anew():
    params = jnp.ones(3)
    tx = optax.inject_hyperparams(adam_family.adamw)(lr=0.1)
    traces = []

    @jax.jit
    def step(params, state):
        traces.append(None)
        return tx.update(params, state, params)

    state = tx.init(params)
    first, new = step(params, state)
    state.hyperparams["lr"] = jnp.asarray(0.2, jnp.float64)  # a Python number would be another type
    second, _ = step(params, state)
    assert len(traces) == 1
    np.testing.assert_allclose(second, 2.0 * first)
    assert jax.tree.structure(new) == jax.tree.structure(state)


def test_injected_hyperparameters_pass_the_checks():
    """They are arrays, and traced once compiled: whether they are 0, or above it, is not known."""
    data = problem()
    arguments = dict(lr=0.1, momentum=0.9, nesterov=True)
    injected = optax.inject_hyperparams(optimizers.sgd)(**arguments)
    assert error(run_jax(injected, *data), run_jax(optimizers.sgd(**arguments), *data)) <= MODULE
    for norm_type in (1.0, 2.0, np.inf):
        injected = optax.inject_hyperparams(clip_grad_norm)(max_norm=0.5, norm_type=norm_type)
        plain = clip_grad_norm(0.5, norm_type)
        assert error(run_jax(injected, *data), run_jax(plain, *data)) <= MODULE


@pytest.mark.parametrize("kind", OURS)
def test_injected_hyperparameters_give_the_same_updates(kind):
    """What is injected is an array: no branch may ask for its value."""
    data = problem()
    plain = ours(kind, lr=0.01)
    injected = optax.inject_hyperparams(OURS[kind])(lr=0.01)
    assert error(run_jax(injected, *data), run_jax(plain, *data)) <= MODULE


@pytest.mark.parametrize("graph", [True, False])
def test_nnx_optimizer_takes_them(graph):
    with nnx.set_graph_mode(graph):
        model = nnx.Linear(3, 2, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
        tx = optax.chain(clip_grad_norm(1.0), adam_family.adamw(step_lr(0.1, 2), amsgrad=True))
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        x = jnp.ones((5, 3))

        @nnx.jit
        def step(model, optimizer):
            loss, grads = nnx.value_and_grad(lambda model: jnp.mean(model(x) ** 2))(model)
            optimizer.update(model, grads)
            return loss

        losses = [float(step(model, optimizer)) for _ in range(4)]
        assert losses[-1] < losses[0]
        assert model.kernel.dtype == jnp.float64


@pytest.mark.parametrize("kind", OURS)
def test_groups_of_parameters_go_through_optax(kind):
    """What torch does with param_groups: a rate for each label, and one group frozen."""
    params, grads = problem()
    groups = {"kernel": "fast", "bias": "slow", "scale": "frozen"}
    parts = {"fast": ours(kind, lr=0.1), "slow": ours(kind, lr=0.01), "frozen": optax.set_to_zero()}
    mine = run_jax(optax.partition(parts, groups), params, grads)
    for name, lr in (("kernel", 0.1), ("bias", 0.01)):
        theirs = run_torch(partial(kind, lr=lr), {name: params[name]}, grads)
        assert error(mine, theirs) <= MODULE
    np.testing.assert_array_equal(mine["scale"][-1], params["scale"])


def test_without_decay_an_update_needs_no_parameters():
    grads = jnp.ones(3)
    for kind in OURS:
        tx = ours(kind, weight_decay=0.0)
        tx.update(grads, tx.init(grads))


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: optimizers.sgd(-1.0), "lr"),
        (lambda: optimizers.sgd(float("nan")), "lr"),
        (lambda: optimizers.sgd(momentum=-0.1), "momentum"),
        (lambda: optimizers.sgd(nesterov=True), "nesterov"),
        (lambda: optimizers.sgd(momentum=0.9, dampening=0.1, nesterov=True), "nesterov"),
        (lambda: optimizers.rmsprop(alpha=-0.1), "alpha"),
        (lambda: optimizers.adagrad(lr_decay=-0.1), "lr_decay"),
        (lambda: adam_family.adam(betas=(1.0, 0.9)), r"betas\[0\]"),
        (lambda: adam_family.adamw(betas=(0.9, -0.1)), r"betas\[1\]"),
        (lambda: adam_family.nadam(momentum_decay=-1.0), "momentum_decay"),
        (lambda: adam_family.radam(eps=-1.0), "eps"),
    ],
)
def test_bad_hyperparameters_are_named(build, named):
    with pytest.raises(ValueError, match=named):
        build()
