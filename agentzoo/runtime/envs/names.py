"""The parts of an environment string, read in one place."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EnvName:
    """`suite:task?key=value&...`, or `suite:task,key=value,...`, in its parts.

    Reading refuses nothing, since strings that others stored are also titles and file names:
    whether suite, task and keys exist is asked where an environment is made. An environment object
    of the user's own has the string "", whose parts are empty.

    Attributes:
        suite: before the colon.
        task: between the colon and the keys.
        pairs: each `key=value`, as it stands there.
    """

    suite: str
    task: str
    pairs: tuple[str, ...] = ()

    @classmethod
    def read(cls, text: str) -> "EnvName":
        """The parts of a string in either spelling."""
        head, mark, query = text.partition("?")
        pairs = query.split("&") if mark else []
        if not mark:  # shells take ? and & for themselves
            head, *pairs = text.split(",")
        suite, _, task = head.partition(":")
        return cls(suite, task, tuple(pairs))

    @property
    def shell(self) -> str:
        """The spelling that every shell leaves alone; the other one where a value has a comma."""
        if any("," in pair for pair in self.pairs):
            return f"{self.head}?{'&'.join(self.pairs)}"
        return ",".join([self.head, *self.pairs])

    @property
    def head(self) -> str:
        """`suite:task`, the name without its keys; "" of an environment object."""
        return f"{self.suite}:{self.task}" if self.task else self.suite
