"""`python -m agora_conformance`."""

from agora_conformance.cli import main

main()
