"""Write a finished run as a folder for a model hub.

    exported = export_hub(run, split)       # RUN/hub
    exported.path                           # upload this folder

The folder holds a model card, the weights, an ONNX file, and `use.py`, which reads a picture
without this package. It is itself a run folder, without the training state: `load_run`, `Reader`
and `from_pretrained` read it.
"""

import inspect
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .._files import MANIFEST, new_folder
from ..audit import audit_run
from ..card import card
from ..data import Split
from ..errors import InputError
from ..locate import describe
from ..pretrained import pretrained
from ..report import report
from ..run import GRAPH, SOURCE, Run
from .onnx import Exported, export_onnx

USE = Path(__file__).parent / "templates" / "use.py"


def export_hub(
    run: Run,
    split: Split,
    out: Path | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Exported:
    """Write a folder that a model hub takes, whole or not at all.

    The ONNX file is made from the folder's own weights and source, and compared with PyTorch on
    every validation image. Folders on the user's disk are not named in it: data have their last
    name only, and the command of the training is left out.

    Args:
        run: A finished run.
        split: The run's data set.
        out: The new folder. None: RUN/hub, or NAME-hub of a pretrained network.
        on_step: Called with a description of each step before it starts.

    Returns:
        The comparison with PyTorch; its path is the folder.

    Raises:
        InputError: The run is not finished, the folder exists, or the source of the run's network
            can't be carried.
        UnfaithfulError: The ONNX file does not read the validation images as the run does.
    """
    out = out or run.export_path("hub")
    if out.exists():
        raise InputError(f"{out}: exists, expected a new folder: none is ever overwritten")
    model = run.load_model()  # raises InputError if the run is not finished
    verdict = run.verdict or audit_run(run, split)[0]
    config = _without_paths(run.config)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = new_folder(out.parent, ".hub-")
    try:
        hub = Run(temporary, config)
        for name in ("model.safetensors", "metrics.jsonl"):
            shutil.copyfile(run.path / name, temporary / name)
        if run.has_own_code:
            config["recipe"]["model"] = f"{SOURCE}:{describe(model).rpartition(':')[2]}"
            if run.has_graph:  # which needs no code
                hub.write(GRAPH, run.read(GRAPH))
            else:
                _carry_source(run, type(model), hub)
        environment = {key: run.environment[key] for key in run.environment if key != "command"}
        hub.write_json("environment.json", environment)
        hub.write_json("verdict.json", verdict.to_dict())
        exported = export_onnx(hub, split, int8=False, on_step=on_step)
        hub.write_json("config.json", config | _facts(hub, exported.metadata))
        shutil.copyfile(USE, temporary / USE.name)
        report(hub, exported.float_result, split, verdict.to_dict())
        if run.pretrained:  # its test images were read, and its card says so
            shipped = pretrained()[run.path.name]
            test = shipped.test_correct, shipped.test_total
            told = card(hub, exported.float_result, split, verdict.to_dict(), test, shipped.chosen)
            hub.write("README.md", told.encode())
        # A hub has digests of its own, and its card is there to be edited.
        (temporary / MANIFEST).unlink()
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return replace(exported, path=out)


def _without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a run's config that names the data but not where they were."""
    config = json.loads(json.dumps(config))
    source = config["data"]["source"]
    config["data"]["source"] = source and Path(source).name
    return config


def _facts(hub: Run, metadata: dict[str, str]) -> dict[str, Any]:
    """Return what config.json says to a reader who does not have this package."""
    data = hub.config["data"]
    return {
        "library_name": "featherweight",
        "architecture": hub.recipe.model,
        "parameters": int(metadata["parameters"]),
        "labels": json.loads(metadata["kind"])["classes"],
        "input": metadata["input"],
        "normalisation": {"scale": 1 / 255, "mean": data["mean"], "std": data["std"]},
        "temperature": float(metadata["temperature"]),
        **{key: float(metadata[key]) for key in ("sure_from", "digit_from") if key in metadata},
    }


def _carry_source(run: Run, network: type, hub: Run) -> None:
    """Copy the file that defines a user's network into the folder, and build it from there.

    Raises InputError if the file does not work by itself.
    """
    kept = run.path / SOURCE
    file = kept if kept.is_file() else Path(inspect.getfile(network))
    shutil.copyfile(file, hub.path / SOURCE)
    try:
        hub.load_model()
    except InputError as error:
        raise InputError(
            f"{file}: got a network that needs more than this file: {error.message}",
            hint="put all that the network uses into one file, and train with that",
        ) from error
