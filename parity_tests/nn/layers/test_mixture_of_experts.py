import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.catalogue.cases import routing_cases
from jax_attn.nn.layers.mixture_of_experts import MixtureOfExperts
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same, compiled, draw
from parity_tests.references import assert_equals


class TestMixtureOfExperts(TwinContract):
    rows = ("mixture-of-experts", "mixture-of-experts-shared")


def mixture(**options) -> MixtureOfExperts:
    given = {"embed_dim": 7, "hidden_dim": 11, "num_experts": 5, **options}
    module = MixtureOfExperts(**given, rngs=nnx.Rngs(0), param_dtype=jnp.result_type(float))
    module.eval()
    return module


NAMES = [
    (r"^router\b", "gate"),
    (r"^(gate_up|down)\.weight", r"experts.\1_proj"),
    (r"^shared\.(gate|up|down)\b", r"shared_expert.\1_proj"),
    (r"^shared_gate\b", "shared_expert_gate"),
]


def reference(name: str) -> torch.nn.Module:
    if name == "Mixtral":
        from transformers.models.mixtral.configuration_mixtral import MixtralConfig
        from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

        sizes = {
            "hidden_size": 8,
            "intermediate_size": 11,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
        }
        return MixtralSparseMoeBlock(MixtralConfig(**sizes, num_local_experts=5, num_experts_per_tok=2))
    from transformers.models.qwen2_moe.configuration_qwen2_moe import Qwen2MoeConfig
    from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock

    sizes = {"hidden_size": 8, "moe_intermediate_size": 11, "shared_expert_intermediate_size": 13}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    config = Qwen2MoeConfig(
        **sizes, **heads, num_experts=5, num_experts_per_tok=2, norm_topk_prob="norm" in name
    )
    return Qwen2MoeSparseMoeBlock(config)


SHARED = {"shared_dim": 13, "shared_gate": True}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Mixtral", {}),
        ("Qwen2Moe", {"softmax": "before", **SHARED}),
        ("Qwen2Moe, norm_topk_prob", {"softmax": "after", **SHARED}),
    ],
)
def test_the_layers_of_mixtral_and_qwen(name, options):
    ours = mixture(embed_dim=8, **options)
    assert_equals(ours, reference(name), routing_cases(8)[:1], names=NAMES)


@jax.enable_x64(True)
def test_load_balance_is_transformers():
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    module, x = mixture(top_k=3), draw(3, 5, 7)
    mask = jnp.arange(5) < jnp.array([[5], [3], [1]])

    @compiled
    def losses(x, mask):
        return [module(x, given, return_losses=True)[1] for given in (None, mask)]

    logits = np.asarray(x @ module.router.kernel[...])
    for (balance, z), given in zip(losses(x, mask), (None, mask), strict=True):
        kept = None if given is None else torch.tensor(np.asarray(given))
        flat = torch.tensor(logits.reshape(15, 5))
        theirs = load_balancing_loss_func((flat,), 5, 3, kept)
        np.testing.assert_allclose(balance, theirs, rtol=1e-6)  # theirs is in float32
        sizes = np.log(np.exp(logits).sum(-1))[slice(None) if given is None else np.asarray(given)]
        assert_same(z, np.mean(sizes**2))


@pytest.mark.parametrize("options", [{}, {"softmax": "before", "capacity_factor": 0.7, **SHARED}])
@jax.enable_x64(True)
def test_grouped_and_masked_are_one(options):
    """Outputs and every gradient, from the same weights."""
    x, cotangent = draw(2, 3, 5, 7)
    mask = jnp.arange(5) < jnp.array([[5], [3], [0]])

    def gradients(module):
        graphdef, state = nnx.split(module)

        def output(state, x):
            return nnx.merge(graphdef, state)(x, mask)

        def run(state, x):
            value, pull = jax.vjp(output, state, x)
            return value, pull(cotangent)

        return jax.tree.leaves(jax.jit(run)(state, x))

    one, other = (gradients(mixture(implementation=name, **options)) for name in ("grouped", "masked"))
    for ours, theirs in zip(one, other, strict=True):
        if jnp.issubdtype(ours.dtype, jnp.floating):
            assert_same(ours, theirs)


@jax.enable_x64(True)
def test_padding_goes_nowhere_and_takes_no_room():
    """A sequence is the same alone, in company, and with padding behind or before it."""
    module, x = mixture(capacity_factor=0.4), draw(3, 5, 7)
    run = compiled(module)
    mask = jnp.arange(5) < jnp.array([[5], [3], [0]])
    output = run(x, mask)
    assert_same(output[0], run(x[0]))
    assert_same(output[~mask], jnp.zeros((7, 7)))
    # The room of 3 tokens in 5 is that of a sequence of 5: padding in front leaves what is behind as it was.
    moved, moved_mask = jnp.roll(x[1], 2, axis=0), jnp.roll(mask[1], 2)
    assert_same(run(moved, moved_mask)[2:], output[1, :3])


@jax.enable_x64(True)
def test_an_expert_takes_first_choices_first():
    """Three tokens, all for expert 0 and then 1 in another order: ceil(0.5 * 3 * 2 / 2) = 2 places each."""
    module = mixture(embed_dim=2, num_experts=2, capacity_factor=0.5)
    unlimited = mixture(embed_dim=2, num_experts=2)
    x = jnp.array([[1.0, 2.0], [2.0, 1.0], [3.0, 1.0]])  # the first wants expert 1, the others 0
    for layer in (module, unlimited):
        layer.router.kernel.set_value(jnp.eye(2))

    def through(expert: int) -> jax.Array:
        gate, up = jnp.split(x @ unlimited.gate_up.kernel[expert], 2, axis=-1)
        return (jax.nn.silu(gate) * up) @ unlimited.down.kernel[expert]

    weights = jax.nn.softmax(x)
    # Expert 0 is full with the first choices of tokens 1 and 2; expert 1 takes token 0, then token 1.
    kept = jnp.array([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]]) * weights
    assert_same(compiled(module)(x), kept[:, :1] * through(0) + kept[:, 1:] * through(1))
    assert_same(compiled(unlimited)(x), weights[:, :1] * through(0) + weights[:, 1:] * through(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "gleu"}, "activation must be one of gelu, .*, got 'gleu'"),
        ({"softmax": "none"}, "softmax must be one of after, before, got 'none'"),
        ({"implementation": "sparse"}, "implementation must be one of grouped, masked, got 'sparse'"),
        ({"top_k": 6}, "top_k must be at most num_experts=5, got 6"),
        ({"top_k": 0}, "top_k must be at least 1, got top_k=0"),
        ({"capacity_factor": 0.0}, "capacity_factor must be above 0, or None for no limit, got 0.0"),
        ({"shared_gate": True}, "shared_gate=True needs a shared expert: shared_dim is None"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        mixture(**options)


def test_bad_input_is_refused():
    module = mixture()
    with pytest.raises(ValueError, match=r"x must have shape \(t, 7\) or \(b, t, 7\), got \(5, 8\)"):
        module(jnp.ones((5, 8)))
    with pytest.raises(ValueError, match=r"mask must have shape \(3, 5\), got \(5,\)"):
        module(jnp.ones((3, 5, 7)), jnp.ones(5, bool))
