"""The format of exported ONNX files, which `export` writes and `inference` requires."""

EXPORT_FORMAT = "featherweight 1"
