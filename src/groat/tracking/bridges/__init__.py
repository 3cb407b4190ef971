"""Bridges to other trackers: they are told what the run records, and a failing one never stops it."""

from __future__ import annotations

from groat.tracking.bridges.base import Bridge, BridgedRun
from groat.tracking.bridges.bridges import Bridges, check_trackers

__all__ = ["Bridge", "BridgedRun", "Bridges", "check_trackers"]
