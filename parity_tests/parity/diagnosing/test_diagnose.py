"""The cause of a difference: the right one is named, and a wrong one never as certain."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.parity.cases import Case
from jax_attn.parity.compare import compare
from jax_attn.parity.comparison import Comparison
from jax_attn.parity.diagnosing.diagnose import diagnose
from jax_attn.parity.mutations import MUTATIONS, inject
from jax_attn.parity.report import Report
from jax_attn.weights.state_dict import load_state_dict
from jax_attn.weights.tensors import as_numpy
from parity_tests.parity.mutations.mutation_pairs import PAIRS
from parity_tests.parity.pairs import CASES, draw, flax_block, torch_block

FORWARD = [
    (name, mutation.name)
    for name, pair in PAIRS.items()
    for mutation in pair.mutations()
    if mutation.lane == "float64" and not mutation.setting.startswith("gradient")
]


def as_flax(module):
    """Call a torch module as if it were Flax: with the injected mutation, it is a port that is wrong."""
    module = module.double().eval()

    def tensor(value):
        return torch.tensor(np.asarray(value)) if isinstance(value, jax.Array | np.ndarray) else value

    def call(_, *args, **kwargs):
        with torch.no_grad():
            value = module(*map(tensor, args), **{key: tensor(value) for key, value in kwargs.items()})
        return jax.tree.map(lambda leaf: jnp.asarray(as_numpy(leaf)), value)

    return call


def why(flax, reference, *inputs, kwargs=None, progress=lambda what: None, **options):
    """The diagnosis of a pair that differs; `diagnose` traces it where the report has not."""
    case = Case("", inputs, kwargs or {})
    return diagnose(Report(compared=Comparison(flax, reference, (case,), **options)), progress=progress)


def found(name, mutation):
    pair = PAIRS[name]
    flax, reference = pair.flax(), pair.torch()
    load_state_dict(flax, reference.state_dict())
    case = pair.cases()[0]
    injected = inject(MUTATIONS[mutation], reference)
    options = {"weights": None, "call_flax": as_flax(injected.module)}
    return why(flax, reference, *case.args, kwargs=case.kwargs, **options)


# Each takes a second or two: some here, of all families, and more among the slow tests; `--power` tries all.
FEW, MORE = FORWARD[::160], [mutation for number, mutation in enumerate(FORWARD[::10]) if number % 16]


@pytest.mark.parametrize("tried", [FEW, pytest.param(MORE, marks=pytest.mark.slow)], ids=["few", "more"])
def test_the_right_cause_is_named_and_no_wrong_one_is_certain(tried):
    wrong, unsure = [], []
    for name, mutation in tried:
        diagnosis = found(name, mutation)
        cause = diagnosis.cause
        told = {(c.setting, c.flax) for c in diagnosis.likely if c.mutation == mutation}
        exact = cause is not None and (cause.setting, cause.flax) in told
        if diagnosis.certainty == "certain" and not exact:
            wrong.append((name, mutation, str(diagnosis)))
        elif not exact:
            unsure.append((name, mutation, str(diagnosis)))
    assert not wrong
    assert len(unsure) <= max(1, len(tried) // 10), unsure


@cache
def another_gelu() -> Report:
    return compare(flax_block("tanh GELU"), torch_block(0.0), *CASES[0].args, lanes=["float64"])


@pytest.mark.slow
def test_of_two_causes_none_is_certain():
    mutation, report = MUTATIONS["gelu-form"], another_gelu()
    assert diagnose(report, mutations=[mutation]).certainty == "certain"
    diagnosis = diagnose(
        report, mutations=[mutation, replace(mutation, name="other", setting="something else")]
    )
    assert diagnosis.certainty == "likely"
    assert [candidate.error <= diagnosis.bound for candidate in diagnosis.likely] == [True, True]
    same = [mutation, replace(mutation, name="other")]  # by two names
    assert diagnose(report, mutations=same).certainty == "certain"


@pytest.mark.slow
def test_a_cause_that_no_second_draw_confirms_is_not_certain():
    x, mask = CASES[0].args

    def on_these_alone(module, given, mask):
        if not np.array_equal(given, x):
            raise ValueError("other inputs")
        return module(given, mask)

    diagnosis = why(flax_block("tanh GELU"), torch_block(0.0), x, mask, call_flax=on_these_alone)
    assert (diagnosis.certainty, diagnosis.cause.mutation) == ("likely", "gelu-form")


@pytest.mark.parametrize(("rest", "certainty"), [(1e-6, "likely"), (4e-5, "unknown")])
def test_a_cause_that_leaves_much_of_the_error_is_none(rest, certainty):
    """GELU's other form is 4e-4 away; what is left of that may be rounding, or another mutation."""

    class Flax(nnx.Module):
        def __init__(self):
            self.linear = nnx.Linear(6, 5, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return nnx.gelu(self.linear(x), approximate=True) + rest * jnp.sin(x[..., :5])

    class Torch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(6, 5)

        def forward(self, x):
            return torch.nn.functional.gelu(self.linear(x))

    diagnosis = why(Flax(), Torch(), 3 * draw(9, 6))
    assert (diagnosis.certainty, diagnosis.cause is None) == (certainty, certainty == "unknown"), diagnosis
    best, share = diagnosis.candidates[0], diagnosis.candidates[0].error / diagnosis.error
    assert best.mutation == "gelu-form"
    assert share < 0.01 if certainty == "likely" else 0.02 < share < 0.4


class Normed(torch.nn.Module):
    """The first token of a norm with fresh weights."""

    def __init__(self):
        super().__init__()
        self.pooler = torch.nn.Identity()
        self.emb = torch.nn.Embedding(30, 6)
        self.norm = torch.nn.LayerNorm(6)

    def forward(self, ids):
        return self.norm(self.emb(ids))[:, 0]


class FlaxNormed(nnx.Module):
    def __init__(self, mistake=""):
        rngs = nnx.Rngs(0)
        self.mistake = mistake
        self.emb = nnx.Embed(30, 6, rngs=rngs)
        self.norm = nnx.LayerNorm(6, epsilon=1e-5, use_fast_variance=False, rngs=rngs)

    def __call__(self, ids):
        y = self.norm(self.emb(ids))
        if self.mistake == "pooled at the largest id":
            return y[jnp.arange(len(ids)), ids.argmax(-1)]
        return y[:, 0] + (y[:, 0] if self.mistake == "twice" else 0)


IDS = np.random.default_rng(0).integers(0, 29, (3, 5))
IDS[:, -1] = 29


@pytest.mark.parametrize("mistake", ["pooled at the largest id", "twice"])
def test_what_holds_on_these_inputs_alone_is_not_certain(mistake):
    """The largest id happens to be the last; a norm's weight is 1, so twice it is one more."""
    diagnosis = why(FlaxNormed(mistake), Normed(), IDS)
    assert diagnosis.certainty == "unknown", diagnosis
    told = "could also be, but not on others: pooled token: flax the last token" in str(diagnosis)
    assert told == (mistake != "twice")


def test_other_modules_with_an_error_of_their_own():
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.LayerNorm(6), torch.nn.LayerNorm(6)

        def forward(self, x):
            return self.second(self.first(x) ** 2)

    class FlaxTwo(nnx.Module):
        def __init__(self):
            self.first, self.second = (
                nnx.LayerNorm(6, epsilon=1e-6, use_fast_variance=False, rngs=nnx.Rngs(0)) for _ in range(2)
            )

        def __call__(self, x):
            return self.second(self.first(x) ** 2)

    diagnosis = why(FlaxTwo(), Two(), draw(3, 6))
    assert (diagnosis.certainty, diagnosis.cause.mutation) == ("certain", "eps-1e-6")
    assert [path for path, _ in diagnosis.also] == ["second"]
    assert "also on their own: second (" in str(diagnosis)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mutation", "words"),
    [
        pytest.param("rotary-layout", "interleaved", marks=pytest.mark.slow),
        ("gate-swapped", "act(up) gate"),
        pytest.param("padding-inverted", "True = masked", marks=pytest.mark.slow),
        pytest.param("norm-placement", "post-norm", marks=pytest.mark.slow),
        pytest.param("heads-shared", "another order", marks=pytest.mark.slow),
    ],
)
def test_a_decoder_that_is_told_by_no_name(mutation, words):
    diagnosis = found("decoder layer", mutation)
    assert diagnosis.certainty == "certain", diagnosis
    assert words in diagnosis.cause.flax


FLAX_MUTATIONS = {
    "eps of LayerNorm": ("eps-1e-6", "1e-06", "1e-05"),
    "swapped q and k": ("swapped-qk", "k qᵀ", "q kᵀ"),
    "transposed weight": ("weight-transposed", "the transpose of weight", "weight"),
    "no scale": ("scale-missing", "scores as they are", "scores / sqrt(head_dim)"),
    "inverted mask": ("mask-inverted", "True = masked", "True = attend"),
    "tanh GELU": ("gelu-form", "tanh GELU", "erf GELU"),
}


REPEATED = ("swapped q and k", "no scale", "inverted mask", "tanh GELU")  # two are met in the tests below


@pytest.mark.parametrize(
    "mutation", [pytest.param(name, marks=[pytest.mark.slow] * (name in REPEATED)) for name in FLAX_MUTATIONS]
)
def test_a_mutation_in_flax(mutation):
    """A module that is called otherwise than torch's is not blamed: "transposed weight" leaves one out."""
    flax, reference = flax_block(mutation), torch_block(0.0)
    case = CASES[1] if mutation == "eps of LayerNorm" else CASES[0]
    names = [("kernel", "weight")]
    diagnosis = why(flax, reference, *case.args, names=names)
    name, ours, theirs = FLAX_MUTATIONS[mutation]
    assert diagnosis.certainty == "certain", diagnosis
    assert diagnosis.cause.mutation == name
    assert diagnosis.cause.flax == ours or name == "weight-transposed"
    assert diagnosis.cause.torch == theirs or name == "weight-transposed"
    assert f"flax {diagnosis.cause.flax}, torch {diagnosis.cause.torch}" in str(diagnosis)


class Causal(torch.nn.Module):
    """Causal attention as it is found: with the fused function, or with one or another low number."""

    def __init__(self, hidden):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (torch.nn.Linear(6, 6) for _ in range(4))
        self.hidden = hidden

    def forward(self, x):
        q, k, v = (
            f(x).unflatten(-1, (2, 3)).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.hidden is None:
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
            y = (q @ k.mT / 3**0.5).masked_fill(future, self.hidden).softmax(-1) @ v
        return self.out_proj(y.transpose(1, 2).flatten(-2))


@pytest.mark.parametrize(
    ("empty_row", "hidden"),
    [
        ("zero", None),
        ("mean", -1e9),
        *(
            pytest.param(*given, marks=pytest.mark.slow)
            for given in (("mean", None), ("zero", -1e9), ("zero", -torch.inf), ("mean", -torch.inf))
        ),
    ],
)
def test_an_inverted_causal_mask(empty_row, hidden):
    """The last token then sees nothing, which is another thing to everyone."""
    future = ~jnp.tril(jnp.ones((5, 5), bool))

    def call_flax(module, x):
        q, k, v = (module.split_heads(f(x)) for f in (module.q_proj, module.k_proj, module.v_proj))
        scores = jnp.einsum("btnh,bsnh->bnts", q, k) / 3**0.5
        weights = jax.nn.softmax(jnp.where(future, scores, jnp.finfo(scores.dtype).min))
        if empty_row == "zero":
            weights = jnp.where(future, weights, 0)
        return module.out_proj(jnp.einsum("bnts,bsnh->btnh", weights, v).reshape(x.shape))

    flax = MultiHeadAttention(6, 2, rngs=nnx.Rngs(0))
    diagnosis = why(flax, Causal(hidden), draw(2, 5, 6), call_flax=call_flax)
    assert (diagnosis.certainty, diagnosis.cause.flax) == ("certain", "True = masked"), diagnosis


@pytest.mark.slow
def test_a_mutation_of_gradients():
    diagnosis = why(flax_block("cut gradient"), torch_block(0.0), *CASES[0].args)
    assert diagnosis.divergence.direction == "backward"
    assert (diagnosis.certainty, diagnosis.cause.mutation) == ("certain", "input-constant")


def test_dropout_shows_in_training_alone():
    diagnosis = why(flax_block("dropout rate"), torch_block(), *CASES[0].args)
    assert diagnosis.cause.setting == "dropout rate"
    assert (diagnosis.cause.flax, diagnosis.cause.torch) == ("0.26", "0.25")
    assert str(diagnosis).startswith(
        "cause, likely in dropout (Dropout): dropout rate: flax 0.26, torch 0.25"
    )


def test_a_report_tells_where_to_look():
    report = another_gelu()
    diagnosis = diagnose(report)
    assert diagnosis.divergence == report.first_divergence
    assert diagnosis.cause.mutation == "gelu-form"
    assert diagnosis.to_json()["cause"]["mutation"] == "gelu-form"


def test_a_report_without_its_modules():
    report = compare(flax_block(), torch_block(), *CASES[0].args, lanes=["float64"])
    with pytest.raises(ValueError, match="needs the report that compare returned"):
        diagnose(Report.from_json(report.to_json()))


@pytest.mark.slow
def test_a_whole_model_keeps_its_bound():
    """What is right up to the bound of a whole model needs no cause."""
    pair, options = (flax_block(), torch_block(0.0)), {"lanes": ["float64"], "whole_model": True}
    report = compare(*pair, *CASES[0].args, call_flax=lambda m, x, mask: m(x, mask) * 1.01, **options)
    assert diagnose(report).bound == 1e-10


def test_long_work_tells_what_it_does():
    told = []
    why(flax_block("tanh GELU"), torch_block(0.0), *CASES[0].args, progress=told.append)
    assert told[:3] == ["torch", "flax", "flax on torch's inputs"]
    assert "gelu-form" in told


def test_a_correct_pair_has_no_cause():
    pair = flax_block(), torch_block()
    diagnosis = diagnose(compare(*pair, *CASES[0].args, lanes=["float64"]))
    assert (diagnosis.certainty, diagnosis.cause, diagnosis.lint) == ("no difference", None, [])
    diagnosis = why(*pair, *CASES[0].args)  # of a report that did not pass
    assert str(diagnosis) == "cause unknown: every submodule that was compared agrees"


def test_what_is_not_known_is_not_named():
    diagnosis = why(
        flax_block(),
        torch_block(0.0),
        *CASES[0].args,
        call_flax=lambda module, x, mask: module(x, mask) * 1.01,
    )
    assert diagnosis.certainty == "unknown"
    assert "unknown" in str(diagnosis)
    assert "axes-swapped" in diagnosis.tried


def test_where_a_side_raises_no_mutation_is_tried():
    def raises(module, *inputs):
        raise RuntimeError("boom")

    diagnosis = why(flax_block(), torch_block(), *CASES[0].args, call_flax=raises)
    assert diagnosis.candidates == []
    assert str(diagnosis).startswith("no mutation was tried in the module itself")
