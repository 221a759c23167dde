"""Which optional extra of the package installs each library that only some of it needs."""

EXTRAS = {
    **dict.fromkeys(("torch", "safetensors", "scipy", "matplotlib", "filelock"), "train"),
    **dict.fromkeys(("onnx", "onnxscript"), "export"),
    **dict.fromkeys(("fastapi", "fastapi_offline", "httptools"), "serve"),
    **dict.fromkeys(("python_multipart", "uvicorn"), "serve"),
    **dict.fromkeys(("anywidget", "traitlets"), "notebook"),
    **dict.fromkeys(("ray", "pyarrow"), "ray"),
    "optuna": "search",
}


def extra_for(error: ModuleNotFoundError) -> str | None:
    """Return the extra that brings a library that was not found, None for any other module."""
    return EXTRAS.get((error.name or "").partition(".")[0])
