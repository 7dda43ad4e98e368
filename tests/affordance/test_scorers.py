"""MineCLIP with the names and shapes of its checkpoint, and any CLIP from a folder."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from agentzoo.affordance.clip_folder import ClipFolderScorer
from agentzoo.affordance.clip_words import ClipWords
from agentzoo.affordance.mineclip import (
    MineClip,
    MineClipScorer,
    MineClipSizes,
    file_sha256,
    read_mineclip,
)
from agentzoo.affordance.sliding import SlidingZoom
from agentzoo.affordance.source import affordance
from agentzoo.runtime.errors import ConfigError

SMALL = MineClipSizes(
    image=(32, 48), width=32, layers=2, heads=4, text_width=24, text_layers=2, text_heads=2,
    context=9, vocabulary=12, feature=16, temporal_heads=2, places=20,
)  # fmt: skip


def official(pool: str = "attn") -> dict[str, tuple[int, ...]]:
    """Names and shapes of the official checkpoint, all three copies of CLIP."""
    norms = [("weight", "bias")]

    def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.{end}": (width,) for end in norms[0]}

    def block(name: str, w: int) -> dict[str, tuple[int, ...]]:
        return {
            f"{name}.attn.in_proj_weight": (3 * w, w),
            f"{name}.attn.in_proj_bias": (3 * w,),
            f"{name}.attn.out_proj.weight": (w, w),
            f"{name}.attn.out_proj.bias": (w,),
            **norm(f"{name}.ln_1", w),
            **norm(f"{name}.ln_2", w),
            f"{name}.mlp.c_fc.weight": (4 * w, w),
            f"{name}.mlp.c_fc.bias": (4 * w,),
            f"{name}.mlp.c_proj.weight": (w, 4 * w),
            f"{name}.mlp.c_proj.bias": (w,),
        }

    image: dict[str, tuple[int, ...]] = {
        "cls_token": (768,),
        "pos_embed": (161, 768),
        "projection": (768, 512),
        "conv1.weight": (768, 3, 16, 16),
        **norm("ln_pre", 768),
        **norm("ln_post", 768),
    }
    text: dict[str, tuple[int, ...]] = {
        "pos_embed": (77, 512),
        "projection": (512, 512),
        "token_embedding.weight": (49408, 512),
        **norm("ln_final", 512),
    }
    for k in range(12):
        image |= block(f"blocks.{k}", 768)
        text |= block(f"blocks.{k}", 512)
    clip: dict[str, tuple[int, ...]] = {"logit_scale": ()}
    clip |= {f"vision_model.{name}": shape for name, shape in image.items()}
    clip |= {f"text_model.{name}": shape for name, shape in text.items()}
    found = {f"image_encoder.{name}": shape for name, shape in image.items()}
    found |= {f"clip_model.{name}": shape for name, shape in clip.items()}
    found |= {f"reward_head.clip_model.{name}": shape for name, shape in clip.items()}
    found |= {"reward_head.video_residual_weight": ()}
    for k in (0, 3):
        found |= {f"reward_head.video_adapter.{k}.weight": (512, 512)}
        found |= {f"reward_head.video_adapter.{k}.bias": (512,)}
    if pool == "attn":
        found |= temporal()
    return {f"model.{name}": shape for name, shape in found.items()}


def temporal() -> dict[str, tuple[int, ...]]:
    root = "temporal_encoder.attn.model"
    layers = f"{root}.attn_layers.layers"
    found: dict[str, tuple[int, ...]] = {f"{root}.pos_emb.emb.weight": (32, 512)}
    for k in range(4):
        found |= {f"{layers}.{k}.0.0.{end}": (512,) for end in ("weight", "bias")}
    for k in (0, 2):
        for part in ("to_q", "to_k", "to_v", "to_out"):
            found[f"{layers}.{k}.1.{part}.weight"] = (512, 512)
    for k in (1, 3):
        found |= {f"{layers}.{k}.1.net.0.proj.weight": (4096, 512)}
        found |= {f"{layers}.{k}.1.net.0.proj.bias": (4096,)}
        found |= {f"{layers}.{k}.1.net.3.weight": (512, 2048)}
        found |= {f"{layers}.{k}.1.net.3.bias": (512,)}
    return found | {f"{root}.norm.{end}": (512,) for end in ("weight", "bias")}


def state(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Tensors of these shapes that take no memory: one number, repeated."""
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


# -- MineCLIP's checkpoint -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pool", "entries", "parameters"), [("attn", 788, 158_537_730), ("avg", 761, 150_118_402)]
)
def test_the_official_checkpoint_is_read_strictly(
    pool: str, entries: int, parameters: int, tmp_path: Path
) -> None:
    shapes = official(pool)
    assert len(shapes) == entries
    assert sum(int(np.prod(shape)) for shape in official().values()) == 394_295_811
    torch.save({"state_dict": state(shapes)}, tmp_path / "mine.pth")
    network = read_mineclip(tmp_path / "mine.pth")
    assert sum(each.numel() for each in network.parameters()) == parameters
    assert ("attn" in network.temporal_encoder) == (pool == "attn")


def small(pool: str = "attn") -> MineClip:
    torch.manual_seed(0)
    network = MineClip(pool, SMALL)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def saved(network: MineClip, path: Path, **more: torch.Tensor) -> Path:
    named = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": named | more}, path)
    return path


def test_a_checkpoint_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no MineCLIP checkpoint at .*nowhere.*README of github"):
        read_mineclip(tmp_path / "nowhere.pth")
    path = saved(small(), tmp_path / "small.pth", **{"model.further": torch.zeros(2)})
    with pytest.raises(ConfigError, match=r"holds other tensors than MineCLIP's.*further"):
        read_mineclip(path, sizes=SMALL)
    with pytest.raises(ConfigError, match=r"holds other tensors than MineCLIP's.*Missing key"):
        read_mineclip(saved(small(), tmp_path / "small.pth"))
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(ConfigError, match="is no checkpoint of torch"):
        read_mineclip(tmp_path / "text.pth")
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(ConfigError, match="holds no safetensors: "):
        read_mineclip(tmp_path / "text.safetensors")
    torch.save({"state_dict": {}}, tmp_path / "empty.pth")
    with pytest.raises(ConfigError, match="holds no tensors by name"):
        read_mineclip(tmp_path / "empty.pth")


def test_a_checkpoints_hash_is_checked_before_it_is_opened(tmp_path: Path) -> None:
    path = saved(small(), tmp_path / "small.pth")
    read_mineclip(path, sha256=file_sha256(path).upper(), sizes=SMALL)
    with pytest.raises(ConfigError, match=f"has the SHA-256 {file_sha256(path)}, expected 00ff"):
        read_mineclip(path, sha256="00ff", sizes=SMALL)


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return Path.write_text, (tmp_path / "sprung", "")  # type: ignore[return-value]

    torch.save({"state_dict": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ConfigError, match="is no checkpoint of torch"):
        read_mineclip(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


# -- MineCLIP's arithmetic -----------------------------------------------------------------------


def test_a_logit_is_the_scaled_cosine() -> None:
    network = small("avg")
    features, text = torch.randn(3, 5, 16), torch.randn(2, 16)
    own = torch.sigmoid(network.reward_head.video_residual_weight)
    mean = features.mean(1)
    video = own * mean + (1 - own) * network.reward_head.video_adapter(mean)
    cosine = torch.nn.functional.cosine_similarity(video[:, None], text[None], dim=-1)
    expected = network.clip_model.logit_scale.exp() * cosine
    torch.testing.assert_close(network(features, text), expected)


def test_a_text_is_read_at_its_end_and_not_beyond() -> None:
    network = small()
    tokens = torch.tensor([[10, 3, 4, 11, 0, 0, 0, 0, 0], [10, 3, 4, 11, 7, 2, 0, 0, 0]])
    first, second = network.encode_text(tokens)
    torch.testing.assert_close(first, second)
    other = network.encode_text(torch.tensor([[10, 3, 5, 11, 0, 0, 0, 0, 0]]))
    assert not torch.allclose(first, other[0])


def test_the_order_of_frames_counts_with_attention_alone() -> None:
    features = torch.randn(1, 16, 16)
    for pool, same in (("attn", False), ("avg", True)):
        network = small(pool)
        forth, back = (network.encode_video(one) for one in (features, features.flip(1)))
        assert torch.allclose(forth, back, atol=1e-5) == same


def words(folder: Path) -> Path:
    """A vocabulary of a dozen pieces."""
    pieces = ["c", "u", "t</w>", "a</w>", "t", "r", "e", "ee</w>", "tr", "cu", "e</w>"]
    numbers = {piece: k for k, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(numbers))
    (folder / "merges.txt").write_text("#version: 0.2\nt r\ne e</w>\nc u\n")
    return folder


def test_sentences_are_numbers_of_byte_pairs(tmp_path: Path) -> None:
    found = ClipWords(words(tmp_path))
    assert found.words("Cut  a TREE") == ["cu", "t</w>", "a</w>", "tr", "ee</w>"]
    assert found.tokens(["cut a"], 8).tolist() == [[11, 9, 2, 3, 12, 0, 0, 0]]
    assert found.tokens(["cut a tree"], 4).tolist() == [[11, 9, 2, 12]], "cut to the length"
    with pytest.raises(ConfigError, match="the vocabulary has no 'x</w>', which 'x' needs"):
        found.words("x")


def test_words_need_their_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no vocab.json; give the folder of a CLIP"):
        ClipWords(tmp_path)
    words(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(ConfigError, match="it is no CLIP's vocabulary"):
        ClipWords(tmp_path)


def test_mineclip_scores_zooms(tmp_path: Path) -> None:
    sizes = MineClipSizes(**{**SMALL.__dict__, "vocabulary": 13})
    torch.manual_seed(0)
    network = MineClip("attn", sizes).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    scorer = MineClipScorer(network, ClipWords(words(tmp_path)))
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3)).astype(np.uint8)
    map_ = affordance(image, "Cut a tree", SlidingZoom(scorer))
    assert map_.shape == (32, 48)
    large = np.repeat(np.repeat(image, 2, 0), 2, 1)
    np.testing.assert_allclose(scorer.encode(large[None]), scorer.encode(image[None]), atol=1e-4)


# -- any CLIP ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with random weights, as `save_pretrained` leaves it."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("clip")
    words(folder)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    shared = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
              "num_attention_heads": 2}  # fmt: skip
    config = transformers.CLIPConfig(
        text_config={**shared, "vocab_size": 13, "max_position_embeddings": 12,
                     "bos_token_id": 11, "eos_token_id": 12, "pad_token_id": 12},
        vision_config={**shared, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_any_clip_is_a_scorer(clip_folder: Path) -> None:
    scorer = ClipFolderScorer(clip_folder, slope=0.5, centre=0.0)
    image = np.random.default_rng(0).integers(0, 256, (40, 64, 3)).astype(np.uint8)
    features = scorer.encode(np.stack([image, 255 - image]))
    assert features.shape == (2, 16)
    found = scorer.logits(features[:, None], ["cut a tree", "a tree", "cut a tree"])
    assert found.shape == (2, 3)
    np.testing.assert_allclose(found[:, 0], found[:, 2], atol=1e-4)
    assert (np.abs(found) <= 100).all()
    assert (found[:, 0] != found[:, 1]).all()
    map_ = affordance(image, "cut a tree", SlidingZoom(scorer))
    assert map_.shape == (40, 64)
    assert map_.std() > 0


def test_a_folder_without_a_clip_is_refused(tmp_path: Path, clip_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no CLIP \(no config.json\)"):
        ClipFolderScorer(tmp_path, slope=1, centre=0)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be read as a CLIP"):
        ClipFolderScorer(tmp_path, slope=1, centre=0)
    torn = shutil.copytree(clip_folder, tmp_path / "torn")
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(ConfigError, match="torn cannot be read as a CLIP"):
        ClipFolderScorer(torn, slope=1, centre=0)
