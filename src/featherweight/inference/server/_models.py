"""The models that a server offers, each loaded when it is first asked for."""

import threading
from collections.abc import Callable, Mapping

from ..reader import Reader


class Models:
    """Readers by name.

    Args:
        models: A reader, or a function that loads one, for each name; the first is the default.
    """

    def __init__(self, models: Mapping[str, Reader | Callable[[], Reader]]) -> None:
        self._models = dict(models)
        self._lock = threading.Lock()
        self.names = list(self._models)
        self.default = self.names[0]

    def get(self, name: str) -> Reader:
        """Return a reader. Raises KeyError for a name that is not offered."""
        with self._lock:
            model = self._models[name]
            if not isinstance(model, Reader):
                model = self._models[name] = model()
            return model

    def loaded(self, name: str) -> Reader | None:
        """Return a reader that is loaded already, without waiting for one that is being loaded."""
        model = self._models[name]
        return model if isinstance(model, Reader) else None
