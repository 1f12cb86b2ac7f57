"""What an import is; another one is a class, and a line in ``choices.IMPORTS``.

Its fields are what a format does not say of itself, so that the user has to.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.bridges.assembling import About, assemble
from kfac_artifacts.bridges.statistics import Known, Statistics
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.lazy import Variants
from kfac_artifacts.network import Network


@dataclass(frozen=True)
class Import(ABC):
    """A format that curvature comes in.

    Attributes:
        name: What users call it.
        needs_output_map: Whether f is for the user to say, since the files are of a
            loss or an output that need not be the usual one of the model.
    """

    name: ClassVar[str]
    needs_output_map: ClassVar[bool] = True

    @abstractmethod
    def read(self, path: Path, known: Known) -> Statistics:
        """Read files, and undo their conventions.

        Args:
            path: Where they are.
            known: What is known beside them.

        Returns:
            What they hold, in the normalisers of this package.

        Raises:
            KfacError: If they are not what they should be.
        """

    def convert(self, path: Path, network: Network, about: About) -> Artifact:
        """Make an artifact of files and the model that they are of.

        Args:
            path: Where the files are.
            network: The model; that it is the right one nobody can tell.
            about: What else the user says.

        Returns:
            The artifact, of which factors are read when they are asked for.

        Raises:
            SettingsError: If something is not known that has to be.
        """
        if self.needs_output_map and about.output_map is None:
            raise SettingsError(
                f"{self.name} does not tell which function its curvature is of: say it "
                "(--output-map), by a name of spec/output_maps.md or one of your own, "
                "such as org.example/likelihood"
            )
        settings = {k: v for k, v in asdict(self).items() if v is not None}
        statistics = self.read(path, Known(network.shapes, about.examples))
        told = statistics.examples
        if None not in {told, about.examples} and told != about.examples:
            raise SettingsError(
                f"{path} tells that it is of {told} examples, not {about.examples}"
            )
        return assemble(statistics, network, about, self.name, settings)


def choose_bridge(table: Variants, name: str, options: Mapping[str, Any]) -> Any:
    """Make an import or an export.

    Args:
        table: ``choices.IMPORTS`` or ``choices.EXPORTS``.
        name: A name in it.
        options: Its fields; None is one that was not given.

    Returns:
        The import or export.

    Raises:
        SettingsError: If there is none of that name, it has no such option, or lacks
            one that it cannot do without.
    """
    kind = table[name]
    given = {key: value for key, value in options.items() if value is not None}
    known = {each.name for each in fields(kind)}
    for option in sorted(given.keys() - known):
        having = [n for n in table if option in {f.name for f in fields(table[n])}]
        raise SettingsError(
            f"{option} does not go with {name}, but with {', '.join(having) or 'none'}"
        )
    for each in fields(kind):
        if each.default is MISSING and each.name not in given:
            said = "--" + each.name.replace("_", "-")
            raise SettingsError(f"{name} does not tell {each.name}: say it ({said})")
    return kind(**given)
