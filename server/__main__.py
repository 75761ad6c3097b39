"""``python -m server`` is ``recallkv``."""

from server.cli import main

main()
