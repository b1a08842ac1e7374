"""Exports a trained model, as parts for stock classes or as ONNX graphs."""

from ..messages import hide_unhelpful_messages

hide_unhelpful_messages()  # before the modules of this folder import the libraries
