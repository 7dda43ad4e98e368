"""Builds and checks what is uploaded to the index: `make release URL=https://...`.

The URL is the repository's: it becomes the homepage in the metadata, and README's relative
links lead there. Nothing is uploaded, and the checkout stays as it is.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", "runs", "site", "dist", "build", "__pycache__")


def main(url: str) -> None:
    """Build from a copy whose metadata and README know the URL, then check strictly."""
    if not re.fullmatch(r"https://\S+", url):
        raise SystemExit(
            f'make release was given URL="{url}", expected the repository\'s address: '
            "make release URL=https://host/owner/agentzoo"
        )
    url = url.rstrip("/")
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "agentzoo"
        shutil.copytree(CHECKOUT, copy, ignore=LEFT_OUT, symlinks=True)
        metadata = copy / "pyproject.toml"
        metadata.write_text(with_urls(metadata.read_text("utf-8"), url), "utf-8")
        readme = copy / "README.md"
        readme.write_text(with_absolute_links(readme.read_text("utf-8"), url), "utf-8")
        out = CHECKOUT / "dist"
        run(sys.executable, "-m", "build", "--outdir", str(out), str(copy))
    run(sys.executable, "-m", "twine", "check", "--strict", *map(str, sorted(out.glob("*"))))


def with_urls(text: str, url: str) -> str:
    """The metadata with the project's addresses."""
    urls = f'[project.urls]\nHomepage = "{url}"\nIssues = "{url}/issues"\n\n'
    return text.replace("[project.scripts]", urls + "[project.scripts]", 1)


def with_absolute_links(text: str, url: str) -> str:
    """README with its relative links and pictures leading to the repository."""

    def absolute(match: re.Match[str]) -> str:
        mark, label, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match.group(0)
        kind = "raw" if mark else "blob"
        return f"{mark}[{label}]({url}/{kind}/main/{target})"

    return re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", absolute, text)


def run(*command: str) -> None:
    """Run a command and fail with it."""
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
