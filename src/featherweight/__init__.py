"""Train, prove and ship image classifiers that must fit a hard budget.

    import featherweight as fw

    run = fw.train("sprint", seed=0)
    run.verdict
    reader = fw.Reader(fw.export_run(run))
    reader.read("photo.jpg").label

Importing the package is cheap: a name loads what it needs, PyTorch included, when it is first used.
"""

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ._extras import extra_for
from ._openmp import share_cores

if TYPE_CHECKING:
    from ._layers import LayerTable as LayerTable
    from .api import audit as audit
    from .api import export_run as export_run
    from .api import from_pretrained as from_pretrained
    from .api import load_model as load_model
    from .api import load_run as load_run
    from .api import train as train
    from .contract import Contract as Contract
    from .contract import load_contract as load_contract
    from .evaluate import Evaluation as Evaluation
    from .inference.draw import draw as draw
    from .inference.reader import Reader as Reader
    from .inference.reader import Reading as Reading
    from .recipe import Recipe as Recipe
    from .recipe import find_recipe as find_recipe
    from .requirements import Requirement as Requirement
    from .run import Run as Run
    from .verdict import Verdict as Verdict

# ONNX Runtime 1.29 and later report their use to Microsoft, unless this is set before they are
# imported, which may happen in any module below.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
_HOMES = {
    "train": "api",
    "audit": "api",
    "export_run": "api",
    "load_run": "api",
    "load_model": "api",
    "from_pretrained": "api",
    "draw": "inference.draw",
    "Reader": "inference.reader",
    "Reading": "inference.reader",
    "Recipe": "recipe",
    "find_recipe": "recipe",
    "Contract": "contract",
    "load_contract": "contract",
    "Requirement": "requirements",
    "Run": "run",
    "Verdict": "verdict",
    "LayerTable": "_layers",
    "Evaluation": "evaluate",
}
__all__ = ["__version__", *_HOMES]


def _load(name: str) -> Any:
    share_cores()  # before the module is imported that loads PyTorch
    try:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        extra = extra_for(error)
        if extra is None:
            raise
        raise ModuleNotFoundError(
            f"{__name__}.{name} needs {error.name}: pip install '{__name__}[{extra}]'",
            name=error.name,
        ) from error


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return _load(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """The package, whose functions `train` and `audit` no submodule replaces.

    Importing featherweight.train would otherwise put the module in the function's place."""

    train = property(lambda _: _load("train"), lambda *_: None)
    audit = property(lambda _: _load("audit"), lambda *_: None)


sys.modules[__name__].__class__ = _Package
