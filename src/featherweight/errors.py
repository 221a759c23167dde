"""What is wrong with the input, as against a bug."""


class InputError(ValueError):
    """Wrong input: what was got, what was expected, and perhaps a hint of what to do.

    The command line shows it in one line with exit code 2. Any other exception is a bug, and shows its
    traceback."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message}; hint: {hint}")
        self.message, self.hint = message, hint

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str | None]]:
        return type(self), (self.message, self.hint)  # workers send it to their study
