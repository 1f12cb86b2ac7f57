"""Faults at random: ``KFAC_CAMPAIGN=700 pytest -s`` on this file for a long run."""

import os
import random
import sys
from pathlib import Path

import pytest

from kfac_artifacts.hub import Hub
from tests.hub.campaign import Campaign
from tests.hub.wire import Server

ROUNDS = int(os.environ.get("KFAC_CAMPAIGN", "25"))
SEED = int(os.environ.get("KFAC_CAMPAIGN_SEED", "1"))


@pytest.mark.slow
@pytest.mark.timeout(600 + 10 * ROUNDS)
def test_no_fault_breaks_a_promise(server: Server, hub: Hub, tmp_path: Path) -> None:
    """One line or success; no other byte, nothing half visible, no false failure."""
    campaign = Campaign(server, hub, tmp_path, random.Random(SEED))
    campaign.run(ROUNDS)
    counts = [f"{n:5} {what}" for what, n in sorted(campaign.counts.items())]
    sys.stdout.write("\n".join(["", *counts, *campaign.broken, ""]))
    assert campaign.broken == []
    assert campaign.counts["push succeeded"]
    assert campaign.counts["pull succeeded"]
