"""Files of a bundle's folder, which may come from anywhere: no link in it is followed.

A folder that came as an archive or a clone can hold links, and what is written or published through
one is somebody else's file. The one exception are links that the Hugging Face cache makes itself,
from a snapshot to the blobs beside it, and from there to blobs that several repos share.
"""

import errno
import os
import re
import stat
import tempfile
from io import BufferedReader
from pathlib import Path

from .errors import BundleError

# huggingface_hub makes these: file_download.py:_create_symlink, utils/_shared_blobs.py
BLOB = re.compile(r"\.\./\.\./blobs/(\w[\w.-]*)", re.ASCII)
SHARED = re.compile(r"\.\./\.\./blobs/([0-9a-f]{2}/[0-9a-f]{64})")
LINK_ERRORS = (errno.ELOOP, errno.EMLINK)  # of opening a link that is not to be followed; BSD's too


def stands(path: Path) -> bool:
    """Whether a plain file is there.

    Raises:
        BundleError: if something else is there: a link, a folder, a pipe.
    """
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    if stat.S_ISLNK(found.st_mode):
        return stands(_blob(path))
    if not stat.S_ISREG(found.st_mode):
        raise BundleError(f"{path} is not a plain file, and a bundle has no others; remove it")
    return True


def at_home(path: str | Path) -> Path:
    """A user's path with its leading ~ as the home it stands for.

    What starts a program need not be a shell, and shells leave `--out=~/policy` as it is. As with
    them, `~NAME` stays where nobody is called so.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:  # there is no such home
        return Path(path)


def open_plain(path: Path) -> BufferedReader:
    """A file open for reading, itself and not what a link names.

    Raises:
        BundleError: if it is a link or no plain file.
        OSError: if it is not there or not to be read.
    """
    # a pipe would be waited for, so nothing is; links fail where the system can say so
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))
    except OSError as error:
        if error.errno not in LINK_ERRORS:
            raise
        return open_plain(_blob(path))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BundleError(f"{path} is not a plain file, and a bundle has no others; remove it")
    return open(descriptor, "rb")


def write_plain(path: Path, content: bytes | str) -> Path:
    """Write a file so that a reader sees the old one or the new one; a link is not written through.

    Args:
        path: the file, in a folder that is there.
        content: bytes, or text for UTF-8.

    Returns:
        The path.

    Raises:
        BundleError: if a link, or no file, is there already.
        OSError: if it cannot be written.
    """
    require_no_link(path)
    data = content.encode() if isinstance(content, str) else content
    descriptor, name = tempfile.mkstemp(prefix=".partial-", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # a temporary file is its owner's alone
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    return path


def require_no_link(path: Path) -> None:
    """Refuse to write where a link, or no file, is.

    Raises:
        BundleError: saying what is there.
    """
    if path.is_symlink():
        raise BundleError(
            f"{path} is a link, and nothing is written through one; remove it, or take a copy of "
            "the folder (agentzoo pull ADDRESS FOLDER)"
        )
    if path.exists() and not path.is_file():
        raise BundleError(f"{path} is there and is no file; remove it, or name another")


def places(path: Path) -> list[Path]:
    """A file's path, and where it lies in the Hugging Face cache if it is a link of the cache's.

    Raises:
        BundleError: if it is another link.
    """
    return [path, *(places(_blob(path)) if path.is_symlink() else [])]


def _blob(path: Path) -> Path:
    """Target of a link that the Hugging Face cache has made itself."""
    leads = os.readlink(path).replace(os.sep, "/")
    folder, above = path.absolute().parent, path.absolute().parents[1]
    if above.name == "snapshots":  # models--me--walker/snapshots/COMMIT/policy.onnx
        match = BLOB.fullmatch(leads)
    elif folder.name == "blobs" and above.name.startswith("models--"):
        match = SHARED.fullmatch(leads)
    else:
        match = None
    if match is not None:
        return above.parent / "blobs" / match[1]
    raise BundleError(
        f"{path} is a link, and no link in a bundle is followed; put the file itself there"
    )
