"""Ship a finished run: ONNX, integers, C for a microcontroller."""
