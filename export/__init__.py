"""A trained model as stock parts and as ONNX graphs."""
