import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from jax_attn.catalogue import CATALOGUE
from jax_attn.models import generate
from jax_attn.weights.state_dict import state_dict
from parity_tests.contract import TwinContract
from parity_tests.models.decoding import IDS

START = 1


class TestSeq2SeqLM(TwinContract):
    rows = ("seq2seq-lm",)
    rounds = drops = False  # its parts do
    elsewhere = ("seq2seq-lm",)  # T5


@jax.enable_x64(True)
def test_it_writes_what_its_twin_writes_and_leaves_out_what_it_shall_not_say():
    row = CATALOGUE["seq2seq-lm"]
    module, twin = row.flax(), row.torch().eval()
    module.eval()
    twin.load_state_dict(state_dict(module))
    mask = np.ones(IDS.shape, bool)
    mask[1, 4:] = False
    context = nnx.jit(lambda module, *given: module.encode(*given))(module, IDS, mask)

    def ours(**options):
        cache = module.init_cache(3, 7, context, jnp.asarray(mask))
        return generate(module, np.full((3, 1), START), cache=cache, max_new_tokens=6, **options).tokens

    def theirs(never=(), first=()):
        read, written = torch.tensor(IDS), torch.full((3, 1), START)
        for step in range(6):
            logits = twin(read, written, torch.tensor(mask))[:, -1]
            logits[:, [*never, *(first if step == 0 else ())]] = -torch.inf
            written = torch.cat([written, logits.argmax(1, keepdim=True)], dim=1)
        return written[:, 1:].numpy()

    with torch.no_grad():
        free = theirs()
        never, first = [int(free[0, 0])], [int(free[1, 0])]
        np.testing.assert_array_equal(ours(), free)
        suppressed = ours(suppress_tokens=never, begin_suppress_tokens=first)
        np.testing.assert_array_equal(suppressed, theirs(never, first))
    assert not np.isin(suppressed, never).any()
