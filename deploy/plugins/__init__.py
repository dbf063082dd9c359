"""Put the two kernels inside TensorRT engines: name their ONNX nodes, compile their code, register them."""
