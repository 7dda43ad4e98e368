"""What holds for all tests, before any of them imports a library.

`huggingface_hub` reads these settings when it is imported, whichever test comes first.
"""

import os

os.environ["HF_HUB_DISABLE_XET"] = "1"  # the stand-in for the Hub speaks LFS
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # its bars are threads' business
