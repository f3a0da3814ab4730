import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_attn.functional.buckets import log_bucket, t5_bucket

DISTANCES = np.arange(-1100, 1101)


@pytest.mark.parametrize("sizes", [(256, 512), (32, 128), (256, 1024), (18, 71), (4, 1000), (8, 23)])
def test_log_buckets_are_debertas(sizes):
    import torch
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    buckets = jax.jit(lambda distances: log_bucket(distances, *sizes))(DISTANCES)
    theirs = make_log_bucket_position(torch.from_numpy(DISTANCES), *sizes).numpy()
    # Their attention clips to where ours stop.
    np.testing.assert_array_equal(buckets, np.clip(theirs, -sizes[0], sizes[0]))
    assert buckets.dtype == jnp.int32
    far = np.array([-(2**30), -sizes[1], 1 - sizes[1], 2**30])
    expected = [-sizes[0], -sizes[0], 1 - sizes[0], sizes[0]]
    np.testing.assert_array_equal(log_bucket(jnp.asarray(far), *sizes), expected)


def test_log_buckets_that_there_cannot_be_are_refused():
    for size in (2, 7):
        with pytest.raises(
            ValueError, match=f"bucket_size must be even and at least 4, got bucket_size={size}"
        ):
            log_bucket(jnp.arange(3), size, 17)
    with pytest.raises(ValueError, match=r"max_position must be above bucket_size / 2 \+ 1 = 5, got .*=5"):
        log_bucket(jnp.arange(3), 8, 5)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("sizes", [(32, 128), (16, 64), (10, 37), (64, 1000)])
def test_t5_buckets_are_t5s(bidirectional, sizes):
    import torch
    from transformers.models.t5.modeling_t5 import T5Attention

    def bucket(distances):
        return t5_bucket(distances, bidirectional, *sizes)

    assert ":f" not in str(jax.make_jaxpr(bucket)(DISTANCES))  # no float that could be rounded otherwise
    buckets = jax.jit(bucket)(DISTANCES)
    theirs = T5Attention._relative_position_bucket(torch.from_numpy(DISTANCES), bidirectional, *sizes)
    np.testing.assert_array_equal(buckets, theirs)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((True, 2, 7), "num_buckets must be even and at least 4 for both directions, got num_buckets=2"),
        ((False, 1, 7), "num_buckets must be at least 2, got num_buckets=1"),
        ((True, 32, 8), "max_distance must be above 8, the number of exact buckets, got max_distance=8"),
    ],
)
def test_t5_buckets_that_there_cannot_be_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        t5_bucket(jnp.arange(3), *sizes)
