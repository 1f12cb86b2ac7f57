"""What the user says about the Hub, looked at before anything is sent."""

from urllib.parse import urlsplit

from huggingface_hub import constants, get_token

from kfac_artifacts.errors import AccessError, AddressError
from kfac_artifacts.hub.client_errors import LOGIN
from kfac_artifacts.hub.words import plain


def check_endpoint(endpoint: str) -> None:
    """Refuse what is no URL of a Hub.

    Args:
        endpoint: What was given.

    Raises:
        AddressError: If nothing can be asked there.
    """
    sent = endpoint.isascii() and endpoint.isprintable() and " " not in endpoint
    try:
        parts = urlsplit(endpoint)
        place = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        named = place and not (parts.query or parts.fragment)
    except ValueError:
        named = False
    if not (sent and named):
        raise AddressError(
            f"{plain(repr(endpoint))} is no URL of a Hub; write --endpoint or "
            "HF_ENDPOINT like https://huggingface.co"
        )


def check_token() -> None:
    """Refuse a token that cannot be sent; it is never shown.

    Raises:
        AccessError: If it has other characters than tokens have, or cannot be read.
    """
    try:
        token = get_token()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise AccessError(
            f"the token in {constants.HF_TOKEN_PATH} cannot be read ({reason}); {LOGIN}"
        ) from error
    if token is not None and not (token.isascii() and token.isprintable()):
        raise AccessError(
            "the token has characters that no token has (letters with accents, line "
            f"breaks, quotes of a text processor): copy it again; {LOGIN}"
        )
    if token is not None and " " in token:
        raise AccessError(f"the token has a space in it: copy it again; {LOGIN}")
