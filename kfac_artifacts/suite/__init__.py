"""Suites: many tasks and arms declared in one file, run, kept and reported."""

from typing import TYPE_CHECKING

from kfac_artifacts.lazy import export_lazily

if TYPE_CHECKING:
    from kfac_artifacts.suite.declaration import (
        Arm as Arm,
        CurvatureSpec as CurvatureSpec,
        MergeSpec as MergeSpec,
        Suite as Suite,
        TaskSpec as TaskSpec,
    )
    from kfac_artifacts.suite.reading import read_suite as read_suite
    from kfac_artifacts.suite.report import write_report as write_report
    from kfac_artifacts.suite.results import (
        Row as Row,
        Spread as Spread,
        SuiteResults as SuiteResults,
    )
    from kfac_artifacts.suite.running import run_suite as run_suite
    from kfac_artifacts.suite.session import Choice as Choice, Session as Session
    from kfac_artifacts.suite.store import Store as Store

export_lazily(__name__)
