"""Notebooks: whether this is one, something shown that changes, and an MP4 to put into a page."""

import html
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

LARGEST_FILM = 30 * 2**20  # bytes of an MP4 that are put into a notebook's page


def in_notebook() -> bool:
    """Whether this program is a notebook's kernel, which shows HTML."""
    ipython: Any = sys.modules.get("IPython")  # of a notebook it is always there
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


class Display:
    """HTML in a notebook's output, which can be changed where it stands."""

    def __init__(self, text: str) -> None:
        """Show it."""
        self._handle: Any = sys.modules["IPython"].display.display(
            sys.modules["IPython"].display.HTML(text), display_id=True
        )

    def update(self, text: str) -> None:
        """Show this instead."""
        self._handle.update(sys.modules["IPython"].display.HTML(text))


def escaped(text: object) -> str:
    """Text as HTML that shows it."""
    return html.escape(str(text))


def film_html(path: Path) -> str:
    """A film that plays in a page and is a part of it; a sentence where it is gone or too large."""
    try:
        size = path.stat().st_size
    except OSError:
        return f"<p>The film {escaped(path)} is not there any more.</p>"
    if size > LARGEST_FILM:
        return (
            f"<p>The film {escaped(path)} has {size / 2**20:,.0f} MiB, too many to show here.</p>"
        )
    data = b64encode(path.read_bytes()).decode()
    source = f"data:video/mp4;base64,{data}"
    return (
        f'<video controls autoplay loop muted playsinline style="max-width:100%" src="{source}">'
        "</video>"
    )
