"""`jax-attn show` as a user types it: any kind of model, the files that it writes, one line for what is wrong."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from flax import nnx
from tokenizers import Tokenizer, models, pre_tokenizers

from jax_attn.cli.main import main
from jax_attn.visualize.texts import both_sides, checkpoint_folder
from jax_attn.weights import from_config, save_pretrained

WORDS = ("<pad>", "</s>", "<unk>", "the", "cat", "sat", "on", "mat")
BERT = {
    "model_type": "bert",
    "vocab_size": 11,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 7,
    "max_position_embeddings": 16,
}
T5 = {
    "model_type": "t5",
    "vocab_size": 11,
    "d_model": 12,
    "d_kv": 4,
    "num_heads": 3,
    "num_layers": 1,
    "num_decoder_layers": 1,
    "d_ff": 7,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
VIT = {
    "model_type": "vit",
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 7,
    "image_size": [4, 6],
    "patch_size": 2,
    "num_channels": 3,
}
FILE = """
import numpy as np
import torch
from flax import nnx

import torch_ref
from jax_attn.nn import Encoder

SIZES = dict(num_layers=2, embed_dim=12, num_heads=3, hidden_dim=7)


def pair():
    x = np.random.default_rng(0).standard_normal((2, 5, 12))  # in float64, which torch does not mix with float32
    return Encoder(**SIZES, rngs=nnx.Rngs(0)), torch_ref.nn.Encoder(**SIZES), (x,)


def flax():
    return Encoder(**SIZES, rngs=nnx.Rngs(7))


class Refusing(torch.nn.Linear):
    def forward(self, x, return_weights=False):
        if return_weights:
            raise NotImplementedError
        return super().forward(x)


def linear():
    return {"torch": Refusing(2, 3), "inputs": (np.ones((1, 2)),)}


def wrapped():
    x = np.ones((1, 5, 12))
    return Encoder(**SIZES, rngs=nnx.Rngs(0)), torch.nn.DataParallel(torch_ref.nn.Encoder(**SIZES)), (x,)


def wrong():
    return {"flax": bare(), "inputs": (1, 2, 3)}


class Raising(nnx.Module):
    def __call__(self, x):
        return x["ten"]


def raising():
    return {"flax": Raising(), "inputs": np.ones((2, 2))}


def bare_with_input():
    return {"flax": bare(), "inputs": np.ones((2, 2))}


def bare():
    return nnx.Linear(2, 3, rngs=nnx.Rngs(0))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("show")
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    kinds = {"bert": (BERT, "Model"), "t5": (T5, "ForConditionalGeneration"), "vit": (VIT, "Model")}
    for name, (config, architecture) in kinds.items():
        save_pretrained(from_config(config, rngs=nnx.Rngs(0), architecture=architecture), folder / name)
        tokenizer.save(str(folder / name / "tokenizer.json"))
    (folder / "modules.py").write_text(FILE)
    return folder


@pytest.fixture
def show(folder, tmp_path, capsys, monkeypatch):
    """Run the command: its status, what it said, and what the page holds."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = main(["show", *(str(each).replace("@", f"{folder}/") for each in arguments)])
        out, err = capsys.readouterr()
        page = tmp_path / "attention.html"
        text = page.read_text(encoding="utf-8") if page.exists() else ""
        record = re.search(r'id="record">(.*?)</script>', text, re.DOTALL)
        return status, out + err, record and json.loads(record[1])

    return run


@pytest.mark.slow
def test_a_pair_of_texts_beside_torch(show, tmp_path):
    status, said, record = show(
        *("the cat sat", "--pair", "on the mat", "--checkpoint", "@bert", "--against", "torch"),
        *("--layer", 1, "--head", 2, "--png", tmp_path / "png", "--view", "model"),
    )
    assert status == 0
    found = re.match(
        r"encoder: 1 layer of 1 head, 6 x 6 tokens; flax and torch differ by at most (\S+)\n", said
    )
    assert float(found[1]) < 1e-6
    assert said.endswith("wrote attention.html\nwrote " + str(tmp_path / "png" / "encoder-01.png") + "\n")
    (stack,) = record["stacks"]
    assert stack["queries"]["labels"] == ["the", "cat", "sat", "on", "the", "mat"]
    assert stack["queries"]["segments"] == [0, 0, 0, 1, 1, 1]
    assert ([layer["number"] for layer in stack["layers"]], stack["heads"]) == ([1], [2])
    assert (record["view"], record["other"]) == ("model", "torch")


@pytest.mark.slow
def test_an_encoder_decoder_writes_the_second_text(show):
    status, _, record = show("the cat sat", "--checkpoint", "@t5")
    assert status == 0
    stacks = {stack["name"]: stack for stack in record["stacks"]}
    assert list(stacks) == ["encoder", "decoder", "cross"]
    assert stacks["cross"]["keys"]["labels"] == ["the", "cat", "sat"]
    written = stacks["cross"]["queries"]["labels"]
    assert written == stacks["decoder"]["keys"]["labels"]
    assert len(written) > 1
    assert written[0] == "<pad>"


def test_an_encoder_decoder_reads_the_second_text(folder):
    model = SimpleNamespace(config=T5)
    arguments, tokens, context = both_sides(model, folder / "t5", "the cat sat", "on mat")
    assert tokens.labels == ("<pad>", "on", "mat")
    assert tokens.special == (True, False, False)
    assert context.labels == ("the", "cat", "sat")
    assert arguments["decoder_input_ids"].tolist() == [[0, 6, 7]]


def test_an_image(show, tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.full((20, 30, 3), 128, np.uint8)).save(tmp_path / "grey.png")
    status, said, record = show("--image", tmp_path / "grey.png", "--checkpoint", "@vit")
    assert (status, said.splitlines()[0]) == (0, "encoder: 1 layer of 3 heads, 7 x 7 tokens")
    assert record["stacks"][0]["keys"]["grid"] == [2, 3]
    assert (record["image"]["height"], record["image"]["width"]) == (4, 6)


@pytest.mark.parametrize("function", ["pair", "wrapped"])
def test_a_module_of_the_users_beside_its_torch_module(show, function):
    status, said, record = show("--module", f"@modules.py:{function}", "--against", "torch")
    assert status == 0
    assert float(said.split("at most ")[1].split()[0]) < 1e-6  # torch's weights were loaded
    assert record["stacks"][0]["queries"]["labels"] == list("01234")


def test_a_module_beside_a_recording(show, folder, tmp_path, capsys):
    assert main(["trace", f"{folder}/modules.py", "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    status, said, record = show("--module", "@modules.py:flax", "--against", tmp_path / "run")
    assert status == 0
    assert float(said.split("at most ")[1].split()[0]) < 1e-6
    assert record["other"] == "torch"
    assert main(["trace", f"{folder}/modules.py:linear", "--out", str(tmp_path / "run")]) == 0
    status, said, _ = show("--module", "@modules.py:flax", "--against", tmp_path / "run")
    assert status == 2
    assert "holds no attention weights" in said


def test_the_folder_of_a_training_has_its_checkpoint_inside(folder, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(folder / "bert")
    assert checkpoint_folder(tmp_path / "run") == tmp_path / "run" / "model"
    assert checkpoint_folder(folder / "bert") == folder / "bert"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "x.png"], "--image needs --checkpoint DIR"),
        (["--image", "x.png", "--checkpoint", "@vit"], "there is no file x.png"),
        (["the", "--image", "x.png", "--checkpoint", "@vit"], "give one of them"),
        (["the", "--checkpoint", "@vit"], "takes no text, but images"),
        (["the", "--module", "@modules.py"], "cannot be given with a text"),
        (["--module", "@modules.py:bare"], "returned no inputs"),
        (["--module", "@modules.py:wrong"], "modules.py in a call of the Flax module raised TypeError: "),
        (
            ["--module", "@modules.py:raising"],
            'in a call of the Flax module (`return x["ten"]`) raised TypeError',
        ),
        (["--module", "@modules.py:bare_with_input"], "no attention"),
        (
            ["--module", "@modules.py", "--against", "tensorflow"],
            "must be torch or the folder of a recording",
        ),
        (["cat", "--against", "@bert"], "--against DIR needs --module FILE.py"),
        ([" "], "the text must not be empty"),
        (["cat", "--checkpoint", "@nowhere"], "nowhere"),
        (["cat", "--out", "nowhere/page.html"], "there is no folder nowhere"),
        (["cat", "--png", "@modules.py"], "--png must be a folder"),
    ],
)
def test_bad_input_is_one_line(show, arguments, message):
    status, said, record = show(*arguments)
    assert status == 2
    assert said.startswith("jax-attn: ")
    assert said.count("\n") == 1
    assert message in said
    assert record is None
