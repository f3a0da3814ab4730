"""What the error of a `state_dict` that does not fit proposes."""

import numpy as np
import pytest
from flax import nnx

from jax_attn.weights import StateDictError, load_state_dict
from jax_attn.weights.remedies import remedies, renaming
from jax_attn.weights.rules import rename, slots


def gpt(layers: int = 3) -> nnx.Module:
    def linear(inputs: int, outputs: int) -> nnx.Linear:
        return nnx.Linear(inputs, outputs, rngs=nnx.Rngs(0))

    blocks = [nnx.Dict(q=linear(3, 3), k=linear(3, 3), up=linear(3, 7)) for _ in range(layers)]
    return nnx.Dict(blocks=nnx.List(blocks), head=linear(3, 5))


def renamed(*names: tuple[str, str]) -> dict[str, np.ndarray]:
    keys = {place.key: slot.torch_shape for slot in slots(gpt()) for place in slot.places}
    return {rename(key, names): np.zeros(shape, np.float32) for key, shape in keys.items()}


@pytest.mark.parametrize(
    "names",
    [
        [(r"^blocks\.", "h.")],
        [(r"^", "transformer.")],
        [(r"^blocks\.", "layers."), (r"\bq\.", "attention.query."), (r"\bk\.", "attention.key.")],
        [(r"\.up\.", ".mlp.up.")],
    ],
)
def test_pairs_that_find_every_key(names):
    given = renamed(*names)
    (line,) = remedies(gpt(), slots(gpt()), given)
    missing = sum(place.key not in given for slot in slots(gpt()) for place in slot.places)
    assert line.endswith(f"would find {missing} of the {missing} that are missing")
    proposed = eval(line.removeprefix("names=").partition(" would")[0])
    load_state_dict(gpt(), given, names=proposed)


def test_a_bias_that_would_fit_several_goes_where_its_weight_does():
    rngs = nnx.Rngs(0)
    port = nnx.Dict(
        down=nnx.Linear(7, 3, rngs=rngs), ln=nnx.LayerNorm(3, rngs=rngs), up=nnx.Linear(3, 7, rngs=rngs)
    )
    port = nnx.clone(port, graph=True)  # what is compared; in it the bias comes first
    shapes = {"norm": (3,), "fc1": (7, 3), "fc2": (3, 7)}
    given = {f"{name}.weight": np.zeros(shape, np.float32) for name, shape in shapes.items()}
    given |= {f"{name}.bias": np.zeros(shape[0], np.float32) for name, shape in shapes.items()}
    rules, found, missing = renaming(slots(port), given)
    assert (found, missing) == (6, 6)
    load_state_dict(port, given, names=rules)


def test_nothing_is_proposed_that_loses_a_key_or_fits_nothing():
    given = renamed()
    del given["head.weight"]
    assert remedies(gpt(), slots(gpt()), given) == []
    assert remedies(gpt(), slots(gpt()), given | {"head.norm": np.zeros(9, np.float32)}) == []
    with pytest.raises(StateDictError) as caught:  # head.bias is where it should be
        load_state_dict(gpt(), given | {"top.weight": np.zeros((5, 3), np.float32)})
    assert caught.value.advice == []


@pytest.mark.parametrize(
    ("keys", "proposed"),
    [
        (["fc.weight_g", "fc.weight_v"], "torch.nn.utils.remove_weight_norm(module.fc)"),
        (["fc.weight_orig"], "torch.nn.utils.remove_spectral_norm(module.fc)"),
        (["weight_g", "weight_v"], "torch.nn.utils.remove_weight_norm(module)"),
        (
            ["parametrizations.weight.original"],
            'torch.nn.utils.parametrize.remove_parametrizations(module, "weight")',
        ),
    ],
)
def test_a_weight_that_torch_computes(keys, proposed):
    lines = remedies(gpt(), slots(gpt()), dict.fromkeys(keys, np.zeros(1)))
    assert any(proposed in line for line in lines)
