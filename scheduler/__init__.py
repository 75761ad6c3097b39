"""Scheduling: the context planner, next-scene prediction and preloading, the upkeep of segments in idle time,
and the worker of durable jobs."""

from scheduler.conversations import last_words
from scheduler.events import EventLog
from scheduler.jobs import JobRunner
from scheduler.planner import Ask, Mode, Plan, PlannedMemory, Planner
from scheduler.prediction.advice import Advice
from scheduler.prediction.advice import summary as advice_summary
from scheduler.prediction.foresight import Foresight, ForesightConfig, ForesightStats
from scheduler.prediction.predictors import PredictorName
from scheduler.prediction.preloader import PreloadConfig, PreloaderStats
from scheduler.standing import StandingLimits
from scheduler.upkeep import Upkeep, UpkeepStats

__all__ = [
    "Advice",
    "Ask",
    "EventLog",
    "Foresight",
    "ForesightConfig",
    "ForesightStats",
    "JobRunner",
    "Mode",
    "Plan",
    "PlannedMemory",
    "Planner",
    "PredictorName",
    "PreloadConfig",
    "PreloaderStats",
    "StandingLimits",
    "Upkeep",
    "UpkeepStats",
    "advice_summary",
    "last_words",
]
