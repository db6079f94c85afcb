"""`python -m hipnode` is the command line."""

from hipnode.cli import main

main()
