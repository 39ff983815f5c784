"""The plan: how scans are brought to the network and what the network looks like, each choice with its reason."""

from hstf.plan.content import Normalisation, Plan

__all__ = ["Normalisation", "Plan"]
