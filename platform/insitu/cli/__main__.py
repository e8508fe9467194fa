"""`python -m insitu.cli` is the program `insitu`."""

from . import main

main()
