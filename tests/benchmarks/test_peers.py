"""Peers: what each answers is what it would have answered without a cache, and what happens where one cannot run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.peers import PEERS, PeerFailed, PeerProcess, PeerSkipped
from benchmarks.peers import process as peer_process
from benchmarks.peers.process import interpreter
from tests.tiny import tiny_network, tiny_tokenizer

CONTEXT = tuple(3 + (7 * i) % 250 for i in range(300))
QUERIES = tuple(tuple(3 + (11 * i + 29 * which) % 250 for i in range(16)) for which in range(3))


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_network().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plain(tiny_folder: Path) -> Iterator[PeerProcess]:
    with PeerProcess("transformers", tiny_folder, 1, context=400) as peer:
        yield peer


def check_answers(peer: PeerProcess) -> None:
    assert peer.versions
    assert peer.notes
    for context in (CONTEXT, CONTEXT[100:], CONTEXT):
        assert peer.build(context) > 0
        for query in QUERIES:
            direct, cached = peer.direct((*context, *query)), peer.cached(context, query)
            assert cached.token_id == direct.token_id
            assert cached.seconds > 0
            assert direct.seconds > 0


def test_transformers(plain: PeerProcess) -> None:
    check_answers(plain)
    assert set(plain.versions) == {"torch", "transformers"}


def test_answers_are_the_models_own(plain: PeerProcess) -> None:
    import torch

    plain.build(CONTEXT)
    with torch.inference_mode():
        logits = tiny_network()(torch.tensor([[*CONTEXT, *QUERIES[0]]])).logits
    assert plain.cached(CONTEXT, QUERIES[0]).token_id == int(logits[0, -1].argmax())


def test_a_context_that_was_not_built_is_built(plain: PeerProcess) -> None:
    plain.build(CONTEXT)
    other = CONTEXT[50:]
    assert plain.cached(other, QUERIES[0]).token_id == plain.direct((*other, *QUERIES[0])).token_id


@pytest.mark.parametrize("name", ["kvboost", "tardigrade-db"])
def test_peers_over_transformers(name: str, tiny_folder: Path) -> None:
    """They run; their answers may differ from the model's, which is theirs to answer for."""
    with other_peer(name, tiny_folder) as peer:
        peer.build(CONTEXT)
        assert 0 <= peer.cached(CONTEXT, QUERIES[0]).token_id < 258
        assert 0 <= peer.direct((*CONTEXT, *QUERIES[0])).token_id < 258


def other_peer(name: str, folder: Path) -> PeerProcess:
    try:
        interpreter(name)
    except PeerSkipped as error:
        pytest.skip(str(error))
    return PeerProcess(name, folder, 1, context=400)


def test_llama_cpp_has_the_demo_model_only(tiny_folder: Path) -> None:
    with pytest.raises(PeerSkipped, match="of the demo model only"):
        PeerProcess("llama.cpp", tiny_folder, 1, context=400, python=Path(sys.executable))


def test_an_unknown_peer_is_skipped(tiny_folder: Path) -> None:
    with pytest.raises(PeerSkipped, match="there is no peer 'nobody'; there are transformers, "):
        PeerProcess("nobody", tiny_folder, 1, context=400)


def test_a_missing_environment_is_skipped(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_process, "_ROOT", tmp_path)
    monkeypatch.setattr(peer_process, "_importable", lambda package: False)
    for name, target in (("kvboost", "env-peers"), ("vllm", "env-vllm")):
        with pytest.raises(PeerSkipped, match=f"make {target}"):
            PeerProcess(name, tiny_folder, 1, context=400)


def test_a_missing_interpreter_and_a_missing_package_are_skipped(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECALLKV_PEERS_PYTHON_TARDIGRADE_DB", str(tmp_path / "python"))
    with pytest.raises(PeerSkipped, match="does not start: No such file"):
        PeerProcess("tardigrade-db", tiny_folder, 1, context=400)
    with pytest.raises(PeerSkipped, match="No module named 'kvboost'"):
        PeerProcess("kvboost", tiny_folder, 1, context=400, python=Path(sys.executable))


def test_a_call_that_raises_has_failed_and_closes(tiny_folder: Path) -> None:
    peer = PeerProcess("transformers", tiny_folder, 1, context=400)
    with pytest.raises(PeerFailed, match="direct: IndexError") as raised:
        peer.direct((100_000,))
    assert str(raised.value).endswith("IndexError: index out of range in self")
    with pytest.raises(PeerFailed, match="is closed"):
        peer.direct((5,))
    peer.close()


def script(tmp_path: Path, body: str) -> Path:
    """An interpreter that runs ``body`` instead of a peer."""
    path = tmp_path / "python"
    path.write_text(f"#!{sys.executable}\nimport json, os, sys, time\npipe = int(sys.argv[-1])\n{body}\n")
    path.chmod(0o755)
    return path


READY = 'os.write(pipe, json.dumps({"versions": {}, "notes": ""}).encode() + b"\\n")\n'


def test_a_child_that_dies_has_failed(tiny_folder: Path, tmp_path: Path) -> None:
    python = script(tmp_path, READY + 'sys.stdin.readline()\nsys.exit("it is broken")')
    peer = PeerProcess("transformers", tiny_folder, 1, context=400, python=python)
    with pytest.raises(PeerFailed, match="transformers ended by itself\nit is broken"):
        peer.build((5,))


def test_a_child_that_dies_at_start_is_skipped(tiny_folder: Path, tmp_path: Path) -> None:
    python = script(tmp_path, 'sys.exit("illegal instruction")')
    with pytest.raises(PeerSkipped, match="illegal instruction"):
        PeerProcess("transformers", tiny_folder, 1, context=400, python=python)


def test_a_child_that_takes_too_long_has_failed(tiny_folder: Path, tmp_path: Path) -> None:
    python = script(tmp_path, READY + "time.sleep(60)")
    peer = PeerProcess("transformers", tiny_folder, 1, context=400, python=python, timeout_s=1.0)
    with pytest.raises(PeerFailed, match="no answer in 1 s"):
        peer.build((5,))
    assert not alive(peer.pid)


def test_close_ends_the_child_and_what_it_has_started(plain: PeerProcess, tiny_folder: Path, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    started = f'import subprocess\nopen("{note}", "w").write(str(subprocess.Popen(["sleep", "60"]).pid))\n'
    python = script(tmp_path, started + READY + "sys.stdin.read()")
    peer = PeerProcess("transformers", tiny_folder, 1, context=400, python=python)
    peer.close()
    assert not alive(peer.pid)
    assert until(lambda: not alive(int(note.read_text())))
    assert alive(plain.pid)


def test_a_child_ends_with_its_caller(tiny_folder: Path) -> None:
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom benchmarks.peers import PeerProcess\n"
        f"peer = PeerProcess('transformers', Path({str(tiny_folder)!r}), 1, context=400)\n"
        "print(peer.pid, flush=True)\nos._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    pid = int(done.stdout)
    try:
        assert until(lambda: not alive(pid))
    finally:
        if alive(pid):
            os.kill(pid, 9)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_all_have_a_module() -> None:
    from benchmarks.peers.__main__ import MODULES

    assert tuple(MODULES) == PEERS
    folder = Path(peer_process.__file__).parent
    for module in MODULES.values():
        assert (folder / f"{module}.py").is_file()
