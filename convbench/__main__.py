"""python -m convbench, which is what torchrun starts."""

from convbench.cli.main import main

main()
