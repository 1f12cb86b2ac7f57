"""Commands as people give them, in this process: what they print, and how they end."""

from click.testing import CliRunner, Result

from kfac_cli.main import main


def kfac(*words: object) -> Result:
    """Give a command, however it ends."""
    return CliRunner().invoke(main, [str(word) for word in words])


def good(*words: object) -> str:
    """What a command that succeeds prints."""
    result = kfac(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def bad(*words: object, code: int = 1) -> str:
    """What a command that fails says, after it has told of its progress."""
    result = kfac(*words)
    assert result.exit_code == code, (result.exit_code, result.output)
    assert "Traceback" not in result.output
    lines = result.stderr.strip().splitlines()
    message = "\n".join(line for line in lines if " rows read" not in line)
    assert message.startswith(("Error: ", "Usage: ")), message
    return message
