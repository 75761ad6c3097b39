"""Compose memories in any order, in Python without a server: ``python examples/compose.py [MODEL]``."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from engine.base import ChatMessage, GenerateRequest, MemoryText, PageRequest, Sampling, Started
from engine.config import CompositionConfig
from engine.transformers import TransformersEngine, load_model
from kvcache import TieredStore

MEMORIES = [
    MemoryText("dog@1", "My dog is called Biscuit."),
    MemoryText("city@1", "I live in Lisbon, near the river."),
    MemoryText("job@1", "I work as a carpenter."),
]
QUESTION = [ChatMessage("user", "What is my dog called?")]


async def ask(engine: TransformersEngine) -> None:
    """Compute the memories as one page, then ask with the same memories in reversed order."""
    header, *memories, _ = engine.prompts.render(QUESTION, MEMORIES).pieces
    await engine.build_page(PageRequest(header, tuple(memories)))
    prompt = engine.prompts.render(QUESTION, MEMORIES[::-1])
    request = GenerateRequest("example", prompt, Sampling(max_tokens=16, temperature=0), fidelity="high")
    async for event in engine.generate(request):
        if not isinstance(event, Started):
            print(event.text, end="")
            continue
        for piece, report in zip(prompt.pieces, event.pieces, strict=True):
            name = piece.label or piece.kind
            print(f"{name}: {report.source}, {report.fidelity}, {report.recomputed} of {report.n_tokens} recomputed")
    print()


async def run(model: str | Path) -> None:
    """Load the model, with its segments in a folder that goes with it."""
    with tempfile.TemporaryDirectory() as folder:
        # Three short memories save fewer tokens than composing costs; the default would compute them.
        composing = CompositionConfig(min_saved_tokens=0)
        engine = TransformersEngine(
            load_model(model), TieredStore(Path(folder)), model_id=str(model), composing=composing
        )
        try:
            await ask(engine)
        finally:
            await engine.close()


def main(model: str | Path | None = None) -> None:
    """Run with ``model``: a folder or a Hugging Face id. None is the demo model, which comes out of a package."""
    from server.assets import demo_model_folder

    asyncio.run(run(model or demo_model_folder()))


if __name__ == "__main__":
    main(*sys.argv[1:])
