"""The exception for wrong input, as opposed to a bug."""

import difflib
from collections.abc import Iterable

# What to do about a module that ends the process when it is imported.
AS_SCRIPT = "put what the file does as a script under: if __name__ == '__main__':"


class InputError(ValueError):
    """Wrong input: what was got, what was expected, and optionally a hint.

    The command line shows it on one line, with its hint on the next, and exits with code 2. Any
    other exception is a bug: it shows its traceback.

    Args:
        message: What was got and what was expected.
        hint: What the user can do about it.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message}; hint: {hint}")
        self.message, self.hint = message, hint

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str | None]]:
        """Support pickling: worker processes send this exception to the main process."""
        return type(self), (self.message, self.hint)


class NoGraphError(InputError):
    """A network that can't be exported. It can be watched while it runs, where that is wanted."""


def did_you_mean(word: object, names: Iterable[str]) -> str | None:
    """Return a hint with the name that is most like a word, None if none is."""
    close = difflib.get_close_matches(str(word)[:100].casefold(), names, 1)
    return f"did you mean {close[0]}?" if close else None
