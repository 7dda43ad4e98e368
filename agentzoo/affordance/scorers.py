"""The scorer that a path names: MineCLIP's checkpoint is a file, any other CLIP a folder."""

from pathlib import Path

from agentzoo.runtime.errors import ConfigError

from .clip_folder import ClipFolderScorer
from .clip_words import ClipWords
from .mineclip import MineClipScorer, read_mineclip
from .source import Scorer


def read_scorer(
    path: str | Path,
    *,
    slope: float,
    centre: float,
    sha256: str = "",
    words: str | Path = "",
    device: str = "cpu",
) -> Scorer:
    """Read a scorer of videos.

    Args:
        path: MineCLIP's checkpoint, or the folder of a CLIP.
        slope: by which a logit's distance to the centre is multiplied.
        centre: the logit that counts one half.
        sha256: of MineCLIP's checkpoint, to be checked before it is opened.
        words: for MineCLIP, a folder with CLIP's `vocab.json` and `merges.txt`.
        device: to compute on.

    Raises:
        ConfigError: if something is missing, or is not what it should be.
    """
    if Path(path).expanduser().is_dir():
        return ClipFolderScorer(path, slope=slope, centre=centre, device=device)
    network = read_mineclip(path, sha256=sha256)
    if not str(words):
        raise ConfigError(
            "MineCLIP needs its words, a folder with CLIP's vocab.json and merges.txt, such as a "
            "copy of openai/clip-vit-base-patch16; name it with --words, or scorer_words"
        )
    found = MineClipScorer(network, ClipWords(words), device)
    found.slope, found.centre = slope, centre
    return found
