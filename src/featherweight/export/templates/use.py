"""Read a picture of the size and kind of the training images, which `card["input"]` describes.

pip install onnxruntime numpy pillow
python use.py picture.png
"""

import json
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
kind = json.loads(card["kind"])
colour = kind["channels"] == 3
pixels = np.asarray(Image.open(sys.argv[1]).convert("RGB" if colour else "L"))
if colour:
    pixels = pixels.transpose(2, 0, 1)  # (height, width, 3) -> (3, height, width) uint8
if [*pixels.shape] != session.get_inputs()[0].shape[1:]:
    sys.exit(f"got {pixels.shape} pixels, expected {session.get_inputs()[0].shape[1:]}")
(log_probabilities,) = session.run(["log_probabilities"], {"pixels": pixels[None]})[0]
odds = np.exp(log_probabilities / float(card["temperature"]))  # calibrated
confidence = odds.max() / odds.sum()
label = kind["classes"][odds.argmax()]
if confidence < float(card.get("digit_from", 0)):
    label = f"not a digit; most like {label}"
print(f"{label}, {confidence:.1%} sure")
