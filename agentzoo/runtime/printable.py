"""Texts from elsewhere for a terminal: what would move the cursor or break the line is spelled."""


def printable(text: object) -> str:
    r"""A text in one line without control characters.

    Escapes, line ends, marks that turn the direction of writing and the like are written as
    Python writes them (`\x1b`, `\n`, `\u202e`); all else stays as it is.
    """
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(text)
    )
