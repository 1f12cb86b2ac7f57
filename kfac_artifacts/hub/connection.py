"""How the Hub is reached: where, with how much patience, and with errors explained."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from logging import getLogger
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi, constants

from kfac_artifacts.errors import KfacError
from kfac_artifacts.hub.address import LIBRARY, HubAddress
from kfac_artifacts.hub.causes import lacks_xet
from kfac_artifacts.hub.client_errors import explain
from kfac_artifacts.hub.login import check_endpoint, check_token

logger = getLogger(__name__)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Hub:
    """A Hub and how to deal with it; the token is that of HF_TOKEN or of the login.

    Attributes:
        endpoint: URL of the Hub; None takes HF_ENDPOINT, or huggingface.co.
        cache_dir: Cache of downloads; None takes that of huggingface_hub.
        retries: How often a request that failed for a passing reason is repeated.
        wait: Seconds before the first repetition; they double each time.
    """

    endpoint: str | None = None
    cache_dir: Path | None = None
    retries: int = 4
    wait: float = 1.0

    @cached_property
    def api(self) -> HfApi:
        """The client, once the URL and the token are seen to be usable."""
        endpoint = (self.endpoint or constants.ENDPOINT).rstrip("/")
        check_endpoint(endpoint)
        check_token()
        return HfApi(
            endpoint=endpoint,
            library_name=LIBRARY,
            library_version=version("kfac-artifacts"),
        )

    @property
    def url(self) -> str:
        """URL of the Hub."""
        return str(self.api.endpoint)

    @property
    def cache(self) -> Path:
        """Cache of downloads."""
        return self.cache_dir or Path(constants.HF_HUB_CACHE)

    def without_xet_if_missing(self, call: Callable[[], Result]) -> Result:
        """Call, and once more with Xet switched off if this Hub only has LFS."""
        try:
            return call()
        except OSError as error:
            if not lacks_xet(error):
                raise
        logger.warning(
            "%s has no Xet storage: using LFS (HF_HUB_DISABLE_XET=1 saves the attempt)",
            self.url,
        )
        with xet_switched_off():
            return call()

    @contextmanager
    def explained(self, address: HubAddress) -> Iterator[None]:
        """Turn the client's errors into one sentence that says what to do."""
        try:
            yield
        except KfacError:
            raise
        except Exception as error:
            told = explain(error, address, self.url)
            if told is None:
                raise
            raise told from error


@contextmanager
def xet_switched_off() -> Iterator[None]:
    """Use LFS, and the client's listings in the cache not at all.

    Yields:
        Nothing.
    """
    before = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = before
