"""CTranslate2's Whisper: a small file that is written here, and the real one, which hears what eSpeak says."""

import json
import struct
import subprocess
import wave
from ctypes import CDLL, CFUNCTYPE, POINTER, c_int, c_short, c_void_p
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.functional.log_mel import log_mel
from jax_attn.models import generate
from jax_attn.weights import from_config, from_pretrained, save_pretrained
from jax_attn.weights.ctranslate2 import DTYPES, CTranslate2Whisper
from jax_attn.weights.families.whisper import WHISPER
from jax_attn.weights.sample import whisper_folder
from jax_attn.weights.state_dict import numpy_state_dict, state_dict

CONFIG = {
    "model_type": "whisper",
    "architectures": ["WhisperForConditionalGeneration"],
    "vocab_size": 31,
    "num_mel_bins": 5,
    "d_model": 14,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 17,
    "decoder_layers": 1,
    "decoder_attention_heads": 7,
    "decoder_ffn_dim": 19,
    "max_source_positions": 7,
    "max_target_positions": 11,
    "pad_token_id": 5,
    "tie_word_embeddings": True,
}
# What CTranslate2 calls the tensors of a layer, and of which of Hugging Face's it is made.
LAYER = {
    "self_attention/layer_norm": ["self_attn_layer_norm"],
    "self_attention/linear_0": [f"self_attn.{part}_proj" for part in "qkv"],
    "self_attention/linear_1": ["self_attn.out_proj"],
    "ffn/layer_norm": ["final_layer_norm"],
    "ffn/linear_0": ["fc1"],
    "ffn/linear_1": ["fc2"],
}
CROSS = {
    "attention/layer_norm": ["encoder_attn_layer_norm"],
    "attention/linear_0": ["encoder_attn.q_proj"],
    "attention/linear_1": ["encoder_attn.k_proj", "encoder_attn.v_proj"],
    "attention/linear_2": ["encoder_attn.out_proj"],
}


def variables(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of a small Whisper as CTranslate2 names and fuses them, with a bias of 0 for the keys."""
    found = {"decoder/embeddings/weight": tensors["model.decoder.embed_tokens.weight"]}
    for side, layers in (("encoder", 2), ("decoder", 1)):
        of_side = f"model.{side}."
        found[f"{side}/position_encodings/encodings"] = tensors[f"{of_side}embed_positions.weight"]
        names = {
            "layer_norm": ["layer_norm"],
            **({"conv1": ["conv1"], "conv2": ["conv2"]} if side == "encoder" else {}),
        }
        for layer in range(layers):
            for name, parts in {**LAYER, **(CROSS if side == "decoder" else {})}.items():
                names[f"layer_{layer}/{name}"] = [f"layers.{layer}.{part}" for part in parts]
        for name, parts in names.items():
            weights = [tensors[f"{of_side}{part}.weight"] for part in parts]
            biases = [tensors.get(f"{of_side}{part}.bias", np.zeros(len(weights[0]))) for part in parts]
            learned = ("gamma", "beta") if name.endswith("layer_norm") else ("weight", "bias")
            found |= {
                f"{side}/{name}/{leaf}": np.concatenate(each)
                for leaf, each in zip(learned, (weights, biases), strict=True)
            }
    return found


def write(path: Path, tensors: dict[str, np.ndarray], version: int = 6, **scalars: int) -> None:
    """A `model.bin` in float16."""

    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    def variable(name: str, array: np.ndarray) -> bytes:
        kind = next(number for number, dtype in DTYPES.items() if array.dtype == dtype)
        head = struct.pack(f"<B{array.ndim}IBI", array.ndim, *array.shape, kind, array.nbytes)
        return string(name) + head + array.tobytes()

    settings = {
        "encoder/num_heads": np.int16(2),
        "decoder/num_heads": np.int16(7),
        "decoder/pre_norm": np.int8(1),
        "decoder/activation": np.int8(3),
        **{f"decoder/{name}": np.int8(value) for name, value in scalars.items()},
    }
    every = {name: np.asarray(value) for name, value in settings.items()}
    every |= {
        name: np.asarray(array, array.dtype if array.dtype == np.int8 else np.float16)
        for name, array in tensors.items()
    }
    parts = [struct.pack("<I", version), string("WhisperSpec"), struct.pack("<II", 3, len(every))]
    parts += [variable(name, array) for name, array in every.items()]
    parts += [struct.pack("<I", 1), string("decoder/projection/weight"), string("decoder/embeddings/weight")]
    path.write_bytes(b"".join(parts))


@pytest.fixture(scope="module")
def small():
    module = from_config(CONFIG, rngs=nnx.Rngs(0))
    return numpy_state_dict(module, names=WHISPER.keys(CONFIG["architectures"][0]))


def test_a_file_becomes_the_model_whose_weights_it_holds(small, tmp_path):
    write(tmp_path / "model.bin", variables(small))
    (tmp_path / "config.json").write_text(json.dumps({"suppress_ids": [1, 2], "suppress_ids_begin": [3]}))
    tokens = [{"content": "<|endoftext|>", "id": 5}, {"content": "<|startoftranscript|>", "id": 6}]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": tokens}))
    checkpoint = CTranslate2Whisper(tmp_path)
    ids = {"bos_token_id": 5, "eos_token_id": 5, "pad_token_id": 5, "decoder_start_token_id": 6}
    suppressed = {"suppress_tokens": [1, 2], "begin_suppress_tokens": [3]}
    assert checkpoint.config == {**CONFIG, **ids, **suppressed}
    assert set(checkpoint.tensors) == set(small)
    module = from_pretrained(tmp_path, param_dtype=jnp.float32)
    assert dict(module.config) == checkpoint.config
    for key, tensor in numpy_state_dict(module, names=WHISPER.keys(CONFIG["architectures"][0])).items():
        np.testing.assert_array_equal(tensor, small[key].astype(np.float16).astype(np.float32), key)


def test_bad_files_are_refused(small, tmp_path):
    path, tensors = tmp_path / "model.bin", variables(small)
    with pytest.raises(FileNotFoundError, match=r"there is no .*model\.bin"):
        CTranslate2Whisper(tmp_path)
    write(path, tensors)
    whole = path.read_bytes()
    for size in (3, 40, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="corrupt or truncated"):
            CTranslate2Whisper(tmp_path)
    key = "encoder/layer_0/ffn/linear_0/weight"
    for given, options, message in (
        (tensors, {"version": 5}, "version 5 is not supported, only 6 is"),
        (tensors, {"pre_norm": 0}, "decoder/pre_norm is not 1, which alone is supported"),
        ({**tensors, key: np.zeros((17, 14), np.int8)}, {}, f"{key} is quantised"),
    ):
        write(path, given, **options)
        with pytest.raises(ValueError, match=message):
            CTranslate2Whisper(tmp_path)


SENTENCE = "We will meet at the train station tomorrow morning."


def test_the_real_one_hears_what_was_said_and_so_do_its_twin_and_transformers(tmp_path):
    """The same tokens of all three, from the same features: log-mel spectrograms of eSpeak's voice."""
    from tokenizers import Tokenizer
    from transformers.models.whisper.modeling_whisper import WhisperForConditionalGeneration

    try:
        folder = whisper_folder()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    features = log_mel(spoken(SENTENCE, tmp_path))[None]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    module = from_pretrained(folder, param_dtype=jnp.float32)
    config = module.config
    prompt = [config["decoder_start_token_id"], tokenizer.token_to_id("<|notimestamps|>")]
    end, never, never_first = (
        config[name] for name in ("eos_token_id", "suppress_tokens", "begin_suppress_tokens")
    )
    context = nnx.jit(lambda module, features: module.encode(features))(module, features)
    heard = generate(
        module,
        np.array([prompt]),
        cache=module.init_cache(1, 32, context),
        max_new_tokens=20,
        stop_tokens=[end],
        suppress_tokens=never,
        begin_suppress_tokens=never_first,
    ).tokens[0]
    assert tokenizer.decode(heard.tolist()).strip() == SENTENCE

    sizes = {name: value for name, value in config.items() if "_token" not in name or name == "pad_token_id"}
    twin = WHISPER.part(config["architectures"][0], {**settings_of(sizes), "scan": False, "remat": False})
    twin = twin.build("torch_ref").eval()
    twin.load_state_dict(state_dict(module))
    theirs = WhisperForConditionalGeneration.from_pretrained(save_pretrained(module, tmp_path / "saved"))
    given = torch.tensor(np.asarray(features))

    @torch.inference_mode()
    def write(step):
        """The likeliest tokens, one by one; `step` gives the logits of a token and what it keeps."""
        tokens, kept = torch.tensor([prompt]), None
        written = []
        while not written or (written[-1] != end and len(written) < 20):
            logits, kept = step(tokens, kept)
            logits[:, [*never, *([] if written else never_first)]] = -torch.inf
            tokens = logits.argmax(-1, keepdim=True)
            written.append(tokens.item())
        return written

    def twins(tokens, kept):
        kept = twin.init_cache(1, twin.encode(given)) if kept is None else kept
        hidden, kept = twin.decode(tokens, cache=kept)
        return twin.logits(hidden)[:, -1], kept

    def transformers(tokens, kept):
        encoded, cache = (theirs.model.encoder(given), None) if kept is None else kept
        found = theirs(encoder_outputs=encoded, decoder_input_ids=tokens, cache=cache, use_cache=True)
        return found.logits[:, -1], (encoded, found.cache)

    assert write(twins) == heard.tolist()
    assert write(transformers) == heard.tolist()


def settings_of(config):
    """What the family is built from."""
    return {name: config.get(name, default) for name, default in WHISPER.rules.defaults.items()}


def spoken(text: str, folder: Path) -> np.ndarray:
    """What eSpeak NG says, at 16 kHz; the test is skipped where it is not installed."""
    from scipy.signal import resample_poly

    if which("espeak-ng"):
        subprocess.run(["espeak-ng", "-v", "en-us", "-s", "140", "-w", folder / "said.wav", text], check=True)
        with wave.open(str(folder / "said.wav")) as file:
            rate, samples = file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), np.int16)
    else:
        rate, samples = spoken_by_library(text)
    return resample_poly(samples.astype(np.float32) / 2**15, 16000 // 50, rate // 50)


def spoken_by_library(text: str) -> tuple[int, np.ndarray]:
    """The same from the shared library that a package carries."""
    found = find_spec("espeakng_loader")
    if found is None or not found.submodule_search_locations:
        pytest.skip("eSpeak NG is not installed: apt install espeak-ng, or pip install espeakng-loader")
    folder = Path(found.submodule_search_locations[0])
    library = CDLL(str(folder / "libespeak-ng.so"))
    retrieval, utf8 = 1, 1
    rate = library.espeak_Initialize(retrieval, 0, str(folder / "espeak-ng-data").encode(), 0)
    pieces = []

    @CFUNCTYPE(c_int, POINTER(c_short), c_int, c_void_p)
    def keep(samples, count, events):
        if samples and count:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    library.espeak_SetSynthCallback(keep)
    library.espeak_SetVoiceByName(b"en-us")
    words_a_minute = 1
    library.espeak_SetParameter(words_a_minute, 140, 0)
    said = text.encode()
    library.espeak_Synth(said, len(said) + 1, 0, 0, 0, utf8, None, None)
    library.espeak_Synchronize()
    return rate, np.concatenate(pieces)
