"""Publishing: bundles out to the Hugging Face Hub and back (huggingface_hub, no torch)."""

__distribution__ = "agentzoo"  # tells this package from a foreign one of the same name
