"""What to have ready: the context planner."""

from scheduler.planner import Ask, Mode, Plan, PlannedMemory, Planner

__all__ = ["Ask", "Mode", "Plan", "PlannedMemory", "Planner"]
