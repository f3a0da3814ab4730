import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.catalogue import CATALOGUE
from jax_attn.catalogue.models import encoder_decoder
from jax_attn.models import shifted_right
from parity_tests.contract import TwinContract
from parity_tests.from_scratch.properties import assert_same, compiled
from parity_tests.models.decoding import IDS, LENGTH, MASKS, PIECES, WHERE

READ = np.random.default_rng(2).integers(31, size=(3, 6))
READ_MASK = np.arange(6) < np.array([[6], [4], [6]])
READ_MASK[2, :3] = False


class TestEncoderDecoder(TwinContract):
    rows = ("encoder-decoder",)
    rounds = drops = False  # its parts do
    elsewhere = ("encoder-decoder",)  # T5


@pytest.mark.slow
@pytest.mark.parametrize(("scan", "padding"), [(True, "left"), (False, "right")])
@jax.enable_x64(True)
def test_a_cache_changes_nothing(scan, padding):
    """Pieces of a text give what the whole does, and each pair of sequences what it gives alone."""
    module = encoder_decoder(scan=scan).build("jax_attn", rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    mask = MASKS[padding]

    @compiled
    def run(read, ids, read_mask, mask):
        cache = module.init_cache(3, LENGTH, module.encode(read, read_mask), read_mask)
        outputs = []
        for piece in np.split(WHERE, np.cumsum(PIECES)[:-1]):
            reordered = module.reorder_cache(cache, jnp.array([2, 0, 1]))
            output, cache = module.decode(ids[:, piece], mask[:, piece], cache=cache)
            outputs.append(output)
        order = np.array([2, 0, 1])
        other, _ = module.decode(ids[order][:, piece], mask[order][:, piece], cache=reordered)
        alone = [
            module(read[row : row + 1, READ_MASK[row]], ids[row : row + 1, MASKS[padding][row]])
            for row in range(3)
        ]
        return module(read, ids, read_mask, mask), jnp.concatenate(outputs, 1), other, alone

    whole, pieces, other, alone = run(READ, IDS, READ_MASK, mask)
    assert_same(pieces[mask], whole[mask])
    last = mask[:, -PIECES[-1] :][[2, 0, 1]]
    assert_same(other[last], pieces[jnp.array([2, 0, 1]), -PIECES[-1] :][last])
    for row, output in enumerate(alone):
        assert_same(output[0], whole[row, mask[row]])


def test_the_twin_decodes_too():
    module = CATALOGUE["encoder-decoder"].torch().eval()
    read, ids, mask = (torch.tensor(array) for array in (READ, IDS, READ_MASK))
    with torch.no_grad():
        cache, outputs = module.init_cache(3, module.encode(read, mask), mask), []
        for piece in ids.split(PIECES, dim=1):
            output, cache = module.decode(piece, cache=cache)
            outputs.append(output)
        torch.testing.assert_close(torch.cat(outputs, 1), module(read, ids, mask))


def test_what_a_decoder_reads_in_training():
    labels = jnp.array([[5, 6, -100, 7]])
    assert shifted_right(labels, 9, 3).tolist() == [[9, 5, 6, 3]]
    assert shifted_right(labels[0], 9).tolist() == [9, 5, 6, 0]


def test_bad_contexts_are_refused():
    module = CATALOGUE["encoder-decoder"].flax()
    context = module.encode(jnp.asarray(READ))
    with pytest.raises(ValueError, match="context must have the batch size 2, got 3"):
        module.init_cache(2, 5, context)
    with pytest.raises(
        ValueError, match=r"attention_mask must have the shape of input_ids, \(3, 6\), got \(3, 5\)"
    ):
        module.init_cache(3, 5, context, jnp.ones((3, 5), bool))
