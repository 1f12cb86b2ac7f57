"""Estimation for tests: of tables too, and of as few examples as are quick.

What the defaults leave out and refuse has tests of its own.
"""

from functools import partial

from kfac_artifacts import estimate

COMPUTE = ("compute", "--include-tables", "--allow-few")

compute = partial(estimate.compute, tables=True, allow_few=True)
compute_with_curvlinops = partial(
    estimate.compute_with_curvlinops, tables=True, allow_few=True
)
plan = partial(estimate.plan, tables=True)
