"""Entry of ``python -m bench``.

Client processes are spawned and import this module under another name; nothing but the guard may stand here, or
each of them would load the command line and the plotting library.
"""

if __name__ == "__main__":
    from bench.environment import enter

    enter()

    from bench.cli import main

    raise SystemExit(main())
