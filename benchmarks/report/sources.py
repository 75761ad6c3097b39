"""List which command makes which committed result, and where its figures are shown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """A committed result. ``file``: below ``benchmarks/results``. ``command``: what makes it, without the part that
    names the file. ``shown``: the page or table that has its figures."""

    file: str
    command: str
    shown: str


SOURCES = (
    Source("lab-quick-cpu.json", "bench lab --suite quick --peers all --rounds 5", "README's picture; the lab"),
    Source("ttft-cpu.json", "bench ttft", "first table"),
    Source("streams-cpu.json", "bench streams", "first list"),
    Source("http-cpu.json", "bench http", "first list"),
    Source("fidelity-cpu.json", "bench fidelity --data locomo5.json", "composed memories"),
    Source("fidelity-musique-cpu.json", "bench fidelity --data musique75.json", "decisions/composition.md"),
    Source("fidelity-vllm-cpu.json", "bench fidelity --engine vllm --data locomo5.json", "under vLLM"),
    Source("ttft-vllm-cpu.json", "bench ttft --engine vllm", "under vLLM"),
    Source("mixed-vllm-cpu.json", "bench mixed", "under vLLM"),
    Source("locomo-cpu.json", "bench locomo --data locomo5.json", "memory"),
    Source("updates-cpu.json", "bench updates", "memory"),
    Source("search-cpu.json", "bench search --n 1000,10000,100000,1000000", "memory"),
    Source("preload-locomo-cpu.json", "bench preload --trace locomo5.json --model demo", "prediction"),
    Source("preload-locomo-index-cpu.json", "bench preload --trace locomo5.json", "prediction"),
    Source("preload-locomo-at-once-cpu.json", "bench preload --trace locomo5.json --at-once", "prediction"),
    Source(
        "preload-locomo-control-cpu.json",
        "bench preload --trace locomo5.json --model demo --policies lru,adversary,lru,predictor,none,resident",
        "prediction",
    ),
    Source("preload-mooncake-cpu.json", "bench preload --trace conversation_trace.jsonl", "prediction"),
    Source("busy-cpu.json", "bench busy", "decisions/prediction.md"),
    Source("day-cpu.json", "bench day", "decisions/prediction.md"),
    Source("crowded-cpu.json", "bench crowded", "threads.md"),
    Source("answers-cpu.json", "bench answers --data locomo5.json --adversarial 0 --tokens 8", "answers"),
    Source("codec-cpu.json", "bench codec --data locomo5.json", "codecs"),
    Source("store-cpu.json", "bench store", "last list"),
)


def table() -> list[str]:
    """Return the list as lines of Markdown."""
    rows = [f"| `{source.file}` | `recallkv {source.command}` | {source.shown} |" for source in SOURCES]
    return ["| result | made by (with `--json FILE`) | shown in |", "|---|---|---|", *rows]
