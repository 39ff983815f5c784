"""``python -m hstf`` is the ``hstf`` command."""

from hstf.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
