"""Lines of a server's log, in which what others wrote stays text."""

import logging


class OneLine(logging.Formatter):
    """Messages on one line each, without control characters, which a terminal would obey.

    A manifest or an error may hold them: a newline would write a line of its own, an escape move
    the cursor. Tracebacks keep their lines.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The message, and a traceback if there is one."""
        lines = [_plain(record.getMessage())]
        if record.exc_info:
            lines += [_plain(one) for one in self.formatException(record.exc_info).splitlines()]
        return "\n".join(lines)


def _plain(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode()
        for one in text
    )
