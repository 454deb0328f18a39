"""``python -m distillkit``, which is also what launchers of several processes start."""

from distillkit.cli.main import main

if __name__ == "__main__":
    main()
