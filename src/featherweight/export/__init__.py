"""Export a finished run: to ONNX, to integers, and to C for a microcontroller."""

CALIBRATION_IMAGES = 1000  # training images from which the ranges of 8-bit activations are taken
