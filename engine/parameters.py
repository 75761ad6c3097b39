"""The size of a model whose weights are elsewhere, from its configuration."""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from engine.errors import first_line

log = logging.getLogger(__name__)


def parameters_of(config: Any) -> int | None:
    """Count the parameters of the model that a transformers configuration describes, whatever its weights are quantized
    to, without making them. None, with a line in the log, for a network that transformers does not know."""
    try:
        with torch.device("meta"):
            return int(AutoModelForCausalLM.from_config(config).num_parameters())
    except (ValueError, TypeError, AttributeError, ImportError, NotImplementedError, RuntimeError) as error:
        log.info("the number of the model's parameters is not known: %s", first_line(error))
        return None
