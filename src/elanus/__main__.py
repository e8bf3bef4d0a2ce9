"""`python -m elanus` is the `elanus` command."""

from __future__ import annotations

from elanus.app.cli import main

if __name__ == "__main__":
    main()
