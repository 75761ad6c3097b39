"""What to have ready: the context planner, the upkeep of segments in idle time, and the worker of durable jobs."""

from scheduler.jobs import JobRunner, result_of
from scheduler.planner import Ask, Mode, Plan, PlannedMemory, Planner
from scheduler.upkeep import Upkeep, UpkeepStats

__all__ = ["Ask", "JobRunner", "Mode", "Plan", "PlannedMemory", "Planner", "Upkeep", "UpkeepStats", "result_of"]
