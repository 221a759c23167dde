"""Read a picture of the training images' size and kind: 28x28 pixels, light ink on black, of MNIST.

pip install onnxruntime numpy pillow
python use.py picture.png
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime would report its use

import numpy as np
import onnxruntime
from PIL import Image

if len(sys.argv) != 2:
    sys.exit("usage: python use.py picture.png")
session = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"))
card = session.get_modelmeta().custom_metadata_map
pixels = np.asarray(Image.open(sys.argv[1]).convert("L"))  # (height, width) uint8
if [*pixels.shape] != session.get_inputs()[0].shape[1:]:
    sys.exit(f"got {pixels.shape} pixels, expected {session.get_inputs()[0].shape[1:]}")
(log_probabilities,) = session.run(["log_probabilities"], {"pixels": pixels[None]})[0]
odds = np.exp(log_probabilities / float(card["temperature"]))  # calibrated
label = card["labels"].split()[odds.argmax()]
print(f"{label}, {odds.max() / odds.sum():.1%} sure")
