"""What came beside a model's weights: tokenizers and image processors."""

from typing import Any

from kfac_artifacts.errors import SourceError
from kfac_artifacts.network import Network
from kfac_artifacts.sources.silence_libraries import quiet


def from_pretrained(kind: Any, network: Network, what: str, **options: Any) -> Any:
    """Load something from where a network's module was loaded from.

    Args:
        kind: A class of ``transformers`` with ``from_pretrained``.
        network: The network.
        what: What to call it in the error.
        options: Further arguments of ``from_pretrained``.

    Returns:
        What was loaded. No code of a repository is run.

    Raises:
        SourceError: If there is none that can be loaded.
    """
    source = getattr(network.module, "name_or_path", "")
    try:
        with quiet():
            return kind.from_pretrained(source, trust_remote_code=False, **options)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise SourceError(
            f"{network.id} has no {what} beside its weights that transformers can load"
        ) from error
