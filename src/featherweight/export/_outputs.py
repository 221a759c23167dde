"""Changes of an ONNX graph that PyTorch exported: what is stripped, and outputs that are added.

Example:
    strip_source(graph)
    add_filters(graph)                  # filters_1, filters_2, ... beside maps_1, maps_2, ...
    add_output(graph, "head", weights)
    drop_copy(graph, "last_maps")       # "maps_7" if it is the same
"""

from collections import deque

import numpy as np
import onnx
from onnx import helper, numpy_helper


def strip_source(graph: onnx.ModelProto) -> None:
    """Remove where in the source code each node comes from; it is half of a small file."""
    for node in graph.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (
        *graph.graph.value_info,
        *graph.graph.input,
        *graph.graph.output,
        *graph.graph.initializer,
    ):
        value.ClearField("metadata_props")
    graph.graph.ClearField("metadata_props")


def add_output(graph: onnx.ModelProto, name: str, array: np.ndarray) -> None:
    """Make a stored array an output, or store it if the graph does not hold it yet.

    An output that is stored is no step of a forward pass, so that it costs no time.
    """
    for tensor in graph.graph.initializer:
        if np.array_equal(numpy_helper.to_array(tensor), array):
            _make_output(graph, tensor.name, name)
            return
    graph.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
    _declare(graph, name, array.shape)


def add_filters(graph: onnx.ModelProto) -> None:
    """Make the filters (channels, inputs, height, width) of each output maps_k an output filters_k.

    A separable convolution has a second output depthwise_k (inputs, 1, height, width), and 1x1
    filters. A stage whose filters are not stored in the graph gets no output.
    """
    made_by = {name: node for node in graph.graph.node for name in node.output}
    stored = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
    maps = [output.name for output in graph.graph.output if output.name.startswith("maps_")]
    named = set()
    for name in maps:
        last = _convolution_before(name, made_by)
        if last is None or last.input[1] not in stored or last.input[1] in named:
            continue
        number, weight = name.removeprefix("maps_"), last.input[1]
        named.add(weight)
        before = made_by.get(last.input[0])
        if stored[weight][2:] == (1, 1) and before is not None and before.op_type == "Conv":
            deep = before.input[1]
            if stored.get(deep, ())[:2] == (stored[weight][1], 1) and deep not in named:
                named.add(deep)
                _make_output(graph, deep, f"depthwise_{number}")
        _make_output(graph, weight, f"filters_{number}")


def _make_output(graph: onnx.ModelProto, old: str, new: str) -> None:
    """Rename a stored tensor and make it an output."""
    for tensor in graph.graph.initializer:
        if tensor.name == old:
            tensor.name = new
            _declare(graph, new, tuple(tensor.dims))
    for node in graph.graph.node:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new
    # What else describes the tensor is derived from it.
    described = [value for value in graph.graph.value_info if value.name != old]
    del graph.graph.value_info[:]
    graph.graph.value_info.extend(described)


def drop_copy(graph: onnx.ModelProto, name: str) -> str:
    """Remove an output that is a copy of another one; return the name of the one that is left."""
    outputs = [output.name for output in graph.graph.output]
    for node in graph.graph.node:
        if node.op_type == "Identity" and node.output[0] == name and node.input[0] in outputs:
            graph.graph.node.remove(node)
            graph.graph.output.pop(outputs.index(name))
            return str(node.input[0])
    return name


def _convolution_before(name: str, made_by: dict[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """Return the nearest convolution that a tensor is computed from, or None."""
    pending, seen = deque([name]), {name}
    while pending:
        node = made_by.get(pending.popleft())
        if node is None:  # an input or a stored tensor
            continue
        if node.op_type == "Conv":
            return node
        pending.extend(each for each in node.input if each not in seen)
        seen.update(node.input)
    return None


def _declare(graph: onnx.ModelProto, name: str, shape: tuple[int, ...]) -> None:
    graph.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
