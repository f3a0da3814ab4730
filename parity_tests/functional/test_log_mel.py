import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_attn.functional.log_mel import log_mel
from jax_attn.parity import tolerances
from parity_tests.from_scratch.properties import compiled
from parity_tests.references import float32_lifted

SOUND = np.random.default_rng(0).standard_normal((2, 16000)) * np.array([[0.1], [0.003]])


@pytest.mark.parametrize("bands", [80, 128])
@jax.enable_x64(True)
def test_the_features_are_those_that_transformers_extracts(bands):
    from transformers.models.whisper.feature_extraction_whisper import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(feature_size=bands, chunk_length=2)
    padded = np.pad(SOUND, ((0, 0), (0, 16000)))
    with float32_lifted():
        expected = extractor._torch_extract_fbank_features(padded)
    found = compiled(lambda sound: log_mel(sound, bands, seconds=2.0))(SOUND)
    assert found.shape == (2, bands, 200)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerances.MODULE)


@jax.enable_x64(True)
def test_what_is_longer_is_cut_and_each_sound_is_heard_by_itself():
    cut = log_mel(SOUND, seconds=0.5)
    np.testing.assert_allclose(cut, log_mel(SOUND[:, :8000], seconds=None), rtol=0, atol=tolerances.MODULE)
    np.testing.assert_allclose(cut[1], log_mel(SOUND[1], seconds=0.5), rtol=0, atol=tolerances.MODULE)


def test_bad_sounds_are_refused():
    for sound, options, message in (
        (jnp.zeros((1, 1, 400)), {}, r"audio must have shape \(n,\) or \(b, n\), got \(1, 1, 400\)"),
        (jnp.zeros(399), {"seconds": None}, "audio must have at least 400 samples, got 399"),
        (jnp.zeros(400), {"bands": 0}, "bands must be at least 1, got bands=0"),
    ):
        with pytest.raises(ValueError, match=message):
            log_mel(sound, **options)
