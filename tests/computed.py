"""Estimation for tests: of tables too, and of as few examples as are quick.

What the defaults leave out and refuse has tests of its own.
"""

from functools import partial

from kfac_artifacts import estimate

TOLD = {"tables": True, "allow_few": True}
COMPUTE = ("compute", "--include-tables", "--allow-few")

compute = partial(estimate.compute, **TOLD)
compute_with_curvlinops = partial(estimate.compute_with_curvlinops, **TOLD)
plan = partial(estimate.plan, tables=True)
