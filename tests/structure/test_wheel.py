"""A wheel holds every file of the package, whatever the checkout came as.

Forges offer a ZIP of a repository. Unpackers that make no links (Windows' own, Python's zipfile)
leave small text files in place of `runtime` and `hub`, which in a clone are links into the package.
"""

import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINKS = {"runtime": "agentzoo/runtime", "hub": "agentzoo/hub"}
BULKY = (":(exclude)zoo", ":(exclude)docs/results")  # bundles and curves, which no wheel reads


def archived(form: str) -> io.BytesIO:
    """The committed files, as a forge packs them."""
    command = ["git", "archive", f"--format={form}", "HEAD", "--", ".", *BULKY]
    return io.BytesIO(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)


def wheel_of(checkout: Path) -> list[str]:
    """Names of all files in the wheel that a checkout makes, without network."""
    out = checkout.with_suffix(".dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run([*command, str(checkout)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.iterdir()
    with zipfile.ZipFile(path) as wheel:
        return sorted(wheel.namelist())


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs git's own list of files")
def test_a_wheel_from_a_zip_holds_what_one_from_a_clone_does(tmp_path: Path) -> None:
    clone, unpacked = tmp_path / "clone", tmp_path / "unpacked"
    with tarfile.open(fileobj=archived("tar")) as tar:
        tar.extractall(clone, filter="data")
    with zipfile.ZipFile(archived("zip")) as packed:
        packed.extractall(unpacked)
    for name, target in LINKS.items():
        assert (clone / name).readlink() == Path(target)
        assert not (unpacked / name).is_symlink()
        assert (unpacked / name).read_text() == target
    names = wheel_of(unpacked)
    assert names == wheel_of(clone)
    inside = {name for name in names if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in inside} == {"agentzoo"}
    package = {
        path.relative_to(clone).as_posix()
        for path in (clone / "agentzoo").rglob("*")
        if path.is_file()
    }
    assert inside == package
