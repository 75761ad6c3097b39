"""What to have ready: the context planner, and the upkeep of segments in idle time."""

from scheduler.planner import Ask, Mode, Plan, PlannedMemory, Planner
from scheduler.upkeep import Upkeep, UpkeepStats

__all__ = ["Ask", "Mode", "Plan", "PlannedMemory", "Planner", "Upkeep", "UpkeepStats"]
