"""`python -m agentzoo`, and so `torchrun -m agentzoo`: the command."""

from .cli.main import main

main()
