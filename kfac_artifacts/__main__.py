"""``python -m kfac_artifacts`` is the ``kfac`` command."""

from importlib import import_module

if __name__ == "__main__":
    import_module("kfac_cli.main").main(prog_name="python -m kfac_artifacts")
