"""``python -m kinfolk``: the command `kin`."""

from kinfolk.cli.main import main

if __name__ == "__main__":
    main()
