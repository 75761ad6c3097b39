"""Serve the demo model in a process, and run the clients' tests against it, each in its own environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.process import ServerProcess

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ENVIRONMENTS = ROOT / ".venv-clients"


def runs() -> list[list[str]]:
    """The commands: pytest in both Python environments, and Node's own test runner."""
    llama_index = str(HERE / "test_llama_index.py")
    pytest = [str(ENVIRONMENTS / name / "bin" / "pytest") for name in ("openai-3", "openai-2")]
    node = shutil.which("node") or "node"
    return [
        [pytest[0], str(HERE), f"--ignore={llama_index}"],
        [pytest[1], llama_index],
        [node, "--test", str(HERE / "node" / "clients.test.js")],
    ]


def main() -> int:
    """Run all of them, whatever comes of each; 1 when one failed."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder) / "data")
        try:
            environment = {**os.environ, "RECALLKV_CLIENTS_URL": server.url}
            for command in runs():
                print("+", *command, flush=True)
                failed |= subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        except FileNotFoundError as error:
            print(f"{error.filename} is not there: make env-clients needs Node 20 and npm", file=sys.stderr)
            failed = 1
        finally:
            server.stop()
        if failed:
            print(server.log.read_text()[-5000:], file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
