"""Policies: acting from an observation to an action, in ONNX Runtime or torch alike."""
