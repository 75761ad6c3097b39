"""Serve the demo model in a process, and run the clients' tests against it, each in its own environment."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.process import ServerProcess

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LLAMA_INDEX = str(HERE / "test_llama_index.py")


def _pytest(environment: str) -> str:
    return str(ROOT / ".venv-clients" / environment / "bin" / "pytest")


COMMANDS = (
    [_pytest("openai-3"), str(HERE), f"--ignore={LLAMA_INDEX}"],
    [_pytest("openai-2"), LLAMA_INDEX],
    ["node", "--test", str(HERE / "node" / "clients.test.js")],
)


def passes(command: list[str], environment: dict[str, str]) -> bool:
    """Run one command, and tell what is missing when it is not there."""
    print("+", *command, flush=True)
    try:
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0
    except FileNotFoundError:
        print(f"{command[0]} is not there: make env-clients installs it, Node 20 and npm excepted", file=sys.stderr)
        return False


def main() -> int:
    """Run all of them, whatever becomes of each; 1 when one failed."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("RECALLKV_")}
    os.environ.clear()
    os.environ.update(outside)
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder) / "data")
        try:
            passed = [passes(command, {**outside, "RECALLKV_CLIENTS_URL": server.url}) for command in COMMANDS]
        finally:
            server.stop()
        if not all(passed):
            print(server.log.read_text()[-5000:], file=sys.stderr)
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
