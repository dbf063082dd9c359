"""Put the two kernels inside TensorRT engines: payload, ONNX nodes, registration."""
