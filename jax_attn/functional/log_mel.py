"""Sound to a picture of it: how loud each band of frequencies is, frame by frame."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jax_attn.functional.checks import require_positive

SAMPLING_RATE = 16000  # samples a second
WINDOW, HOP = 400, 160  # samples: 25 ms and 10 ms
SECONDS = 30
FLOOR, RANGE = 1e-10, 8.0  # the least power, and how many powers of ten below the loudest are kept


def log_mel(
    audio: Float[Array, "*b n"] | Float[np.ndarray, "*b n"], bands: int = 80, seconds: float | None = SECONDS
) -> Float[Array, "*b m s"]:
    """`(max(log10(M |STFT(audio)|²), peak - 8) + 4) / 4`, the features of Whisper.

    `M` are triangular filters, equally far apart on Slaney's mel scale and of equal area; the STFT has Hann windows
    of 25 ms, 10 ms apart, the first and the last beyond the sound, which is mirrored there.

    Args:
        audio: `(n,)` or `(b, n)`, samples between -1 and 1 at 16 kHz.
        bands: number of bands: 80, or 128 for Whisper large-v3.
        seconds: silence is added up to this length, and what is longer is cut; None takes it as it is.

    Returns:
        `(bands, frames)` or `(b, bands, frames)`, 100 frames a second.

    Raises:
        ValueError: `bands` is not positive, audio that is not `(n,)` or `(b, n)`, or that is shorter than a window.

    Source: Radford et al. (arXiv 2212.04356), section 2.2; Slaney, "Auditory Toolbox" (1998).
    """
    require_positive("bands", bands)
    audio = jnp.asarray(audio)
    if audio.ndim not in (1, 2):
        raise ValueError(f"audio must have shape (n,) or (b, n), got {audio.shape}")
    if seconds is not None:
        samples = round(seconds * SAMPLING_RATE)
        missing = max(samples - audio.shape[-1], 0)
        audio = jnp.pad(audio[..., :samples], [(0, 0)] * (audio.ndim - 1) + [(0, missing)])
    if audio.shape[-1] < WINDOW:
        raise ValueError(f"audio must have at least {WINDOW} samples, got {audio.shape[-1]}")
    mirrored = jnp.pad(audio, [(0, 0)] * (audio.ndim - 1) + [(WINDOW // 2, WINDOW // 2)], mode="reflect")
    starts = np.arange(audio.shape[-1] // HOP) * HOP
    frames = mirrored[..., starts[:, None] + np.arange(WINDOW)]
    hann = jnp.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW), audio.dtype)
    power = jnp.abs(jnp.fft.rfft(frames * hann)) ** 2
    filters = jnp.asarray(mel_filters(bands), audio.dtype)
    mel = jnp.einsum("...sf,fm->...ms", power, filters, precision=jax.lax.Precision.HIGHEST)
    loudness = jnp.log10(jnp.maximum(mel, FLOOR))
    peak = loudness.max(axis=(-2, -1), keepdims=True)
    return (jnp.maximum(loudness, peak - RANGE) + 4) / 4


def mel_filters(bands: int, frequencies: int = WINDOW // 2 + 1) -> np.ndarray:
    """The filters `(frequencies, bands)` from 0 Hz to half of the sampling rate, each of area 1 over its width."""
    hertz = np.linspace(0, SAMPLING_RATE / 2, frequencies)
    edges = mel_to_hertz(np.linspace(0, hertz_to_mel(SAMPLING_RATE / 2), bands + 2))
    below, above = edges[1:-1] - edges[:-2], edges[2:] - edges[1:-1]
    rising = (hertz[:, None] - edges[:-2]) / below
    falling = (edges[2:] - hertz[:, None]) / above
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])


# Slaney's scale: 200/3 Hz to a mel up to 1000 Hz, and from there on a constant ratio: 27 mels to a factor of 6.4.
LINEAR, KINK, STEP = 200 / 3, 1000.0, np.log(6.4) / 27


def hertz_to_mel(hertz: float) -> float:
    """The mel of a frequency."""
    return hertz / LINEAR if hertz < KINK else KINK / LINEAR + np.log(hertz / KINK) / STEP


def mel_to_hertz(mel: np.ndarray) -> np.ndarray:
    """The frequencies of mels."""
    of_kink = KINK / LINEAR
    return np.where(mel < of_kink, mel * LINEAR, KINK * np.exp(STEP * np.maximum(mel - of_kink, 0)))
