"""Drives the provider hooks; supervises, escalates, reconciles; owns every write."""

from agora.engine.engine import Engine
from agora.engine.look import ReconcileReport
from agora.engine.reap import Reaped

__all__ = ["Engine", "Reaped", "ReconcileReport"]
