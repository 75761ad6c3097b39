"""Figures of README.md and docs/figures.md, written from the committed results.

``python -m benchmarks.report.readme`` writes both pages and README's picture; ``--check`` only looks.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.report.answers import figure_lines
from benchmarks.report.chart import first_token_svg
from benchmarks.report.sources import table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- figures: begin (python -m benchmarks.report.readme) -->", "<!-- figures: end -->"
_MODES = {
    "text": "text (full prefill)",
    "resident": "KV, resident",
    "host": "KV, host memory",
    "disk": "KV, disk (page cache dropped)",
}


def _load(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return result


def _ttft_table(result: dict[str, Any]) -> list[str]:
    lines = ["| context + query | memory comes as | time to first token | of text | of the floor | same output |"]
    lines.append("|---|---|---|---|---|---|")
    for row in result["rows"]:
        cells = (
            f"{row['context_tokens']:,} + {row['query_tokens']}",
            _MODES[row["mode"]],
            f"{row['ttft_s']['p50']:.3f} s",
            f"{row['ratio_to_text']:.3f}",
            f"{row['ratio_to_floor']:.2f}",
            "yes" if row["outputs_equal"] else "**no**",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


_STRATEGIES = {
    "naive": "caches concatenated, keys not moved",
    "single+none": "each memory alone, keys moved",
    "single+first": "the same, first tokens of each recomputed",
    "single+attention": "the same, those the question attends to",
    "fast": "**`fast`**: pages, moved",
    "high": "**`high`**: pages, moved, those that differ most recomputed",
}


def _fidelity_table(result: dict[str, Any]) -> list[str]:
    """Return a line per strategy: the two sizes of memories, then the recall task."""
    rows = {(row["strategy"], row["memories"]): row for row in result["rows"]}
    sizes = list(dict.fromkeys((r["memories"], r["tokens_each"]) for r in result["rows"] if r["kl_mean"] is not None))
    sizes = [size for size in sizes if ("high", size[0]) in rows and rows["high", size[0]]["kl_mean"] is not None]
    recall = next(row["memories"] for row in result["rows"] if row["strategy"] == "text")
    head = ["memories come as", "recomputed"]
    for memories, tokens in sizes:
        head += [f"KL, top-1: {memories} x {tokens}", "TTFT of text"]
    lines = [f"| {' | '.join([*head, f'recall, {recall} memories'])} |", "|" + "---|" * (len(head) + 1)]
    full = ["text, or `exact`", "all, or none"]
    for _ in sizes:
        full += ["0, 1.00", "1.00"]
    lines.append(f"| {' | '.join([*full, _percent(rows['text', recall])])} |")
    for name, label in _STRATEGIES.items():
        found = [rows[name, memories] for memories, _ in sizes]
        cells = [label, f"{found[0]['share_recomputed']:.0%}"]
        for row in found:
            ratio = row["ttft_ratio_to_text"]
            cells += [f"{row['kl_mean']:.3f}, {row['top1']:.2f}", "-" if ratio is None else f"{ratio:.2f}"]
        lines.append(f"| {' | '.join([*cells, _percent(rows.get((name, recall)))])} |")
    return lines


def _percent(row: dict[str, Any] | None) -> str:
    return "-" if row is None else f"{row['answer_accuracy']:.0%}"


def _codec_table(result: dict[str, Any]) -> list[str]:
    lines = ["| codec | bytes of bfloat16's | encode, decode GB/s on one core | KL added |", "|---|---|---|---|"]
    for row in result["rows"]:
        if not row["before_rotation"]:
            speeds = f"{row['encode_gb_s']:.1f}, {row['decode_gb_s']:.1f}" if row["codec"] != "none" else "-"
            lines.append(f"| `{row['codec']}` | {row['share_of_bf16']:.3f} | {speeds} | {row['kl_added']:.4f} |")
    return lines


_VLLM_MODES = {
    "vllm: prefill": "vLLM without RecallKV: full prefill",
    "vllm: prefix cache": "vLLM without RecallKV: prefix in its memory",
    "text": "with the connector: full prefill",
    "resident": "prefix in vLLM's memory",
    "host": "host tier",
    "disk": "disk (page cache dropped)",
    "restart": "disk, vLLM just restarted",
    "restart, page cache dropped": "disk, vLLM just restarted, page cache dropped",
}


def _vllm_lines() -> list[str]:
    ttft, fidelity, here = _load("ttft-vllm-cpu.json"), _load("fidelity-vllm-cpu.json"), _load("fidelity-cpu.json")
    rows = ttft["rows"]
    lines = [
        f"**Under vLLM** {ttft['machine']['vllm']} (the same model and machine, {rows[0]['context_tokens']:,} + "
        f"{rows[0]['query_tokens']} tokens, {ttft['rounds']} rounds and {ttft['restarts']} restarts, commit "
        f"{ttft['machine']['commit']}):",
        "",
        "| | time to first token | of full prefill | of vLLM's prefix hit | same output |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (
            _VLLM_MODES[row["mode"]],
            f"{row['ttft_s']['p50']:.3f} s",
            f"{row['ratio_to_text']:.3f}",
            f"{row['ratio_to_resident']:.2f}",
            "-" if row["mode"].startswith("restart") else "yes" if row["outputs_equal"] else "**no**",
        )
        lines.append(f"| {' | '.join(cells)} |")
    ours = {(row["strategy"], row["memories"]): row["kl_mean"] for row in here["rows"]}
    pairs = [
        f"`{row['strategy']}` {row['memories']} x {row['tokens_each']}: {row['kl_mean']:.3f} "
        f"({ours[row['strategy'], row['memories']]:.3f})"
        for row in fidelity["rows"]
        if row["strategy"] in ("high", "fast")
    ]
    mixed = _load("mixed-vllm-cpu.json")
    with_, without = mixed["connector"], mixed["vllm"]
    hits, misses, ratio = mixed["hits"], mixed["misses"], mixed["throughput_ratio"]
    waits = (
        f"- {hits} requests whose {mixed['stored_tokens']} tokens of context are on disk and {misses} new ones of "
        f"{mixed['new_tokens']} tokens at once: {ratio:.2f} times the throughput of vLLM without the connector; the "
        f"first ones' median wait is {with_['hit_ttft_p50_s']:.2f} s instead of {without['hit_ttft_p50_s']:.2f} s, the "
        f"others' {with_['miss_ttft_p50_s']:.2f} s instead of {without['miss_ttft_p50_s']:.2f} s."
    )
    return [*lines, "", waits, f"- Composed inside vLLM, KL (and the embedded engine's): {'; '.join(pairs)}."]


def _memory_lines() -> list[str]:
    """Return the tables of retrieval and of the side store's speed."""
    found, scale = _load("locomo-cpu.json"), _load("search-cpu.json")
    lines = [
        f"**Retrieval** (LoCoMo, {found['questions']:,} questions with evidence, no language model, turns found when "
        f"{found['top_k']} memories are asked for, commit {found['machine']['commit']}):",
        "",
        "| | questions | recall@5 | recall@10 | nDCG@10 | all@10 |",
        "|---|---|---|---|---|---|",
    ]
    names = ("recall@5", "recall@10", "ndcg@10", "all@10")
    for name, row in {"all": found["overall"], **found["by_category"]}.items():
        lines.append(f"| {name} | {row['questions']:,} | {' | '.join(f'{row[key]:.3f}' for key in names)} |")
    adding = scale["adding"]
    speeds = "; ".join(
        f"{row['n']:,}: {row['search_ms']['p50']:.1f} ms (99%: {row['search_ms']['p99']:.1f})" for row in scale["rows"]
    )
    last = scale["rows"][-1]
    return [
        *lines,
        "",
        f"- The ten best memories are {found['context_share']:.1%} of a conversation's tokens.",
        f"- Search on one core, by number of memories: {speeds}; embedding the question takes "
        f"{last['embed_query_ms']:.1f} ms more. {adding['conversations_of_20_per_s']:.0f} messages per second are "
        f"added in conversations of 20, {adding['one_by_one_per_s']:.0f} one by one, embedding and disk included.",
    ]


def _updates_lines() -> list[str]:
    """Return the table of memories that change."""
    found = _load("updates-cpu.json")
    names = ("stays", "retired", "not_stored", "found")
    lines = [
        f"**Memories that change** ({found['cases']} cases, {found['data']}; right of all, commit "
        f"{found['machine']['commit']}; [updates.md](updates.md) says what is counted):",
        "",
        "| | stays | retired | not stored | found | whole cases |",
        "|---|---|---|---|---|---|",
    ]
    titles = {"all": "all", "lang:en": "English", "lang:others": "other languages"}
    kinds = {name: f"`{name}`" for name in found["totals"] if name != "all" and not name.startswith("lang:")}
    for name, title in (titles | kinds).items():
        if name in found["totals"]:
            counts = [*(found["totals"][name].get(column) for column in names), found["whole"][name]]
            lines.append(f"| {title} | {' | '.join(_right(count) for count in counts)} |")
    return lines


def _right(count: list[int] | None) -> str:
    return "-" if count is None else f"{count[0]}/{count[1]} ({count[0] / count[1]:.3f})"


_POLICIES = {
    "none": "nothing kept, nothing preloaded",
    "lru": "least recently used",
    "lfu": "least frequently used",
    "predictor": "**predictor**",
    "adversary": "a predictor that is wrong on purpose",
    "oracle": "oracle (knows the future)",
    "resident": "everything in memory",
}


def _control_line(control: dict[str, Any]) -> str:
    """Say how noisy a run is, by the least recently used policy that runs twice in it."""
    (again,) = (row for row in control["rows"] if row["policy"] == "lru" and row["of_lru_p99"] is not None)
    (wrong,) = (row for row in control["rows"] if row["policy"] == "adversary")

    def told(row: dict[str, Any], name: str) -> str:
        return f"{row[name]['p50']:.2f} ({row[name]['low']:.2f} to {row[name]['high']:.2f})"

    tail, median = told(again, "of_lru_p99"), told(again, "of_lru_p50")
    return (
        f"So few turns say little about a 99th percentile. In a run of {control['turns']} turns with the least "
        f"recently used policy twice, one has {tail} of the other's, and {median} of its median. The predictor that is "
        f"wrong on purpose has {told(wrong, 'of_lru_p99')} and {told(wrong, 'of_lru_p50')} "
        "(95% intervals of a paired bootstrap)."
    )


def _preload_lines() -> list[str]:
    """Return the replays of LoCoMo with the model and on the index alone, and of Mooncake's trace."""
    timed, index, trace = (_load(f"preload-{name}-cpu.json") for name in ("locomo", "locomo-index", "mooncake"))
    by_policy = {row["policy"]: row for row in index["rows"]}
    lines = [
        f"**Preloading** ({timed['cubes']} conversations of LoCoMo turn by turn, {timed['top_k']} memories of "
        f"{timed['memory_tokens']} tokens a turn, `{timed['fidelity']}`, host memory for a quarter of all pages, files "
        f"read cold; {timed['turns']} turns with the model, commit {timed['machine']['commit']}; {index['turns']:,} "
        f"turns on the index alone, {index['top_k']} memories each):",
        "",
        "| policy | hit rate | TTFT p50 | p99 | bytes wasted | hit rate, all turns |",
        "|---|---|---|---|---|---|",
    ]
    for row in timed["rows"]:
        wasted = "-" if row["wasted_share"] is None else f"{row['wasted_share']:.0%}"
        cells = (
            _POLICIES[row["policy"]],
            f"{row['hit_rate']:.3f}",
            f"{row['ttft_p50_s']:.3f} s",
            f"{row['ttft_p99_s']:.3f} s",
            wasted,
            f"{by_policy[row['policy']]['hit_rate']:.3f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", _control_line(_load("preload-locomo-control-cpu.json"))]
    budgets = sorted({row["budget_bytes"] for row in trace["rows"]})
    per_block = 512 * trace["bytes_per_token"]
    lines += [
        "",
        f"Mooncake's conversation trace ({trace['requests']:,} requests, {trace['blocks']:,} blocks; an infinite cache "
        f"has {trace['ideal_hit_rate']:.3f}), block hit rate, index only, replayed in {trace['seconds']:.0f} s:",
        "",
        f"| policy | {' | '.join(f'{budget // per_block:,} blocks' for budget in budgets)} |",
        "|---" * (len(budgets) + 1) + "|",
    ]
    for name in ("lru", "lfu", "predictor", "oracle"):
        rates = {row["budget_bytes"]: row["hit_rate"] for row in trace["rows"] if row["policy"] == name}
        lines.append(f"| {_POLICIES[name]} | {' | '.join(f'{rates[budget]:.3f}' for budget in budgets)} |")
    return [*lines, "", "![Preloading LoCoMo's conversations](../benchmarks/results/preload-locomo-cpu.png)"]


_LAB_MODES = {
    "direct": "direct prefill",
    "resident": "**KV resident**",
    "host": "KV, host memory",
    "disk": "KV, disk (cold)",
    "composed": "composed at `high`",
}
_PEERS = {
    "peer:transformers": "plain transformers, DynamicCache",
    "peer:vllm": "vLLM, prefix cache",
    "peer:llama.cpp": "llama.cpp, prompt cache",
    "peer:tardigrade-db": "TardigradeDB",
    "peer:kvboost": "KVBoost",
}


def _lab_lines() -> list[str]:
    """Return the quick suite with its peers."""
    quick = _load("lab-quick-cpu.json")
    cells = list(dict.fromkeys((row["context_tokens"], row["query_tokens"]) for row in quick["rows"]))
    by_mode = {(row["mode"], row["context_tokens"]): row for row in quick["rows"]}
    versions = {f"peer:{name}": about["versions"] for name, about in quick["models"]["demo"]["peers"].items()}
    lines = [
        f"**The lab** (demo model, {quick['machine']['cores']} cores of an {quick['machine']['cpu']}, commit "
        f"{quick['machine']['commit']}; medians of {quick['rounds']} rounds; time saved is against direct prefill by "
        "the same software):",
        "",
        f"| first token | {' | '.join(f'{c:,} + {q} | saved' for c, q in cells)} | same output |",
        "|" + "---|" * (2 * len(cells) + 2),
    ]
    for mode, label in {**_LAB_MODES, **_PEERS}.items():
        rows = [by_mode[mode, context] for context, _ in cells if (mode, context) in by_mode]
        if not rows:
            continue
        told = f" {_own(mode, versions[mode])}" if mode in versions else ""
        same = "yes" if all(row["outputs_equal"] for row in rows) else "**no**"
        found = []
        for row in rows:
            saved = "-" if mode == "direct" else f"{row['speedup_percent']:.0f}%"
            found.append(f"{row['ttft_s']['p50']:.3f} s | {saved}")
        lines.append(f"| {label}{told} | {' | '.join(found)} | {same} |")
    builds = "; ".join(
        f"{row['context_tokens']:,} tokens in {row['build_s']['p50']:.2f} s, {row['ratio_to_prefill']:.2f} of plain "
        f"prefill, on disk {row['store_s'] * 1e3:.0f} ms later"
        for row in quick["builds"]
    )
    skipped = "; ".join(f"{s['what'].removeprefix('peer:')}: {s['reason']}" for s in quick["skipped"])
    lines += [
        "",
        f"- Building: {builds}.",
        f"- Not run: {skipped}." if skipped else "- All peers ran.",
        "- MemOS's 27 cells (Qwen3-8B, Qwen3-32B and Qwen2.5-72B): not yet run (no GPU).",
    ]
    return lines


def _own(mode: str, versions: dict[str, str]) -> str:
    """Return the version of what the peer is named after."""
    return versions.get(mode.removeprefix("peer:"), next(iter(versions.values())))


def caption() -> str:
    """Return the words below README's picture."""
    quick = _load("lab-quick-cpu.json")
    context, query = max((row["context_tokens"], row["query_tokens"]) for row in quick["rows"])
    times = {row["mode"]: row["ttft_s"]["p50"] for row in quick["rows"] if row["context_tokens"] == context}
    machine = quick["machine"]
    return (
        f"With {context:,} tokens of memory and a question of {query}, the first token takes {times['direct']:.2f} s "
        f"when the memory is read as text.\nInjected as KV it takes {times['resident']:.2f} s, with the same output. "
        f"In any other order it takes {times['composed']:.2f} s, within a measured bound.\n"
        f"Measured with the demo model (SmolLM2-135M) on {machine['cores']} cores of an {machine['cpu']}, medians of "
        f"{quick['rounds']} rounds.\nOn a GPU: not yet run."
    )


def figures() -> str:
    """Return the tables of docs/figures.md."""
    fidelity, codec, store = _load("fidelity-cpu.json"), _load("codec-cpu.json"), _load("store-cpu.json")
    high = next(row for row in fidelity["rows"] if row["strategy"] == "high")
    recall = next(row for row in fidelity["rows"] if row["strategy"] == "text")
    finding, read = store["finding"], store["reads"][0]
    ttft, streams, http = _load("ttft-cpu.json"), _load("streams-cpu.json"), _load("http-cpu.json")
    machine = ttft["machine"]
    many = str(streams["streams"])
    rates, following = streams["tokens_per_s"], streams["next_request"]
    lines = [
        f"Demo model (SmolLM2-135M-Instruct, {machine['dtype']}) on {machine['cores']} cores of an {machine['cpu']}, "
        f"torch {machine['torch']}, transformers {machine['transformers']}, commit {machine['commit']}; medians of "
        f"{ttft['repeat']} rounds in one run, the modes taking turns. The floor is the bare forward pass of the query "
        "over a cache that is already in place.",
        "",
        *_ttft_table(ttft),
        "",
        f"- {many} concurrent streams give {rates[many]:.0f} tokens/s, one gives {rates['1']:.0f} "
        f"({streams['ratio']:.1f} times). One more request gets its first token after {following['ttft_s']:.2f} s, "
        f"{following['first_other_ended_after_s']:.1f} s before the first of them ends.",
        f"- Over HTTP a client sees {http['overhead_s']['p50'] * 1e3:.0f} ms more than the engine, retrieval included; "
        f"the server is up {http['start_s']:.0f} s after it is started.",
        "- On a GPU: not yet run.",
        "",
        *_lab_lines(),
        "",
        f"**Composed memories** (LoCoMo text, {high['questions']} questions a size, against full prefill of the same "
        "prompt; KL in nats and agreement of the likeliest token over 24 tokens; recall: a fact about one of "
        f"{recall['memories']} people in {recall['memories']} memories, {recall['questions']} questions, commit "
        f"{fidelity['machine']['commit']}):",
        "",
        *_fidelity_table(fidelity),
        "",
        "![Divergence against the share recomputed, and against time](../benchmarks/results/fidelity-cpu.png)",
        "",
        *figure_lines(_load("answers-cpu.json")),
        "",
        "![What memories bring to the right answer](../benchmarks/results/answers-cpu.png)",
        "",
        *_vllm_lines(),
        "",
        *_memory_lines(),
        "",
        *_updates_lines(),
        "",
        *_preload_lines(),
        "",
        *_codec_table(codec),
        "",
        f"- From disk to where attention reads it: {read['injected_gb_s']:.2f} GB/s, {read['ratio']:.2f} of what the "
        f"drive gives to plain sequential reads in the same run ({read['raw_gb_s']:.2f} GB/s), checksum included.",
        f"- With {finding['segments']:,} segments stored, a chain is found in {finding['match_ms']:.2f} ms and a part "
        f"of a page in {finding['find_part_ms']:.3f} ms; twelve memories are put in order in {finding['plan_ms']:.2f} "
        f"ms. Opening takes {finding['open_s']:.2f} s and reads no segment.",
        "",
        "**Where the figures come from**",
        "",
        *table(),
    ]
    return "\n".join(lines)


def rendered(page: str, section: str) -> str:
    """Return ``page`` with ``section`` between its two markers. Raises ``ValueError`` where they are missing."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError("a page has lost the markers around its figures")
    return f"{head}{BEGIN}\n{section}\n{END}{tail}"


def written() -> dict[Path, str]:
    """Return the text of each generated file as it must be."""
    readme, page = ROOT / "README.md", ROOT / "docs" / "figures.md"
    return {
        readme: rendered(readme.read_text(), caption()),
        page: rendered(page.read_text(), figures()),
        ROOT / "docs" / "first-token.svg": first_token_svg(_load("lab-quick-cpu.json")),
    }


def main() -> int:
    """Write the files, or with ``--check`` say by status 1 that one is out of date."""
    files = written()
    if "--check" in sys.argv[1:]:
        return int(any(not path.exists() or path.read_text() != text for path, text in files.items()))
    for path, text in files.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
