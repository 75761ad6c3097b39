"""The groups of operations on one connection."""

from __future__ import annotations

import sqlite3

from memory.storage.sqlite.candidates import SqliteCandidates
from memory.storage.sqlite.cubes import SqliteCubes
from memory.storage.sqlite.documents import SqliteDocuments, SqliteFeedback
from memory.storage.sqlite.fulltext import SqliteTexts
from memory.storage.sqlite.jobs import SqliteJobs
from memory.storage.sqlite.keys import SqliteKeys
from memory.storage.sqlite.lists import SqliteHistory, SqliteLists
from memory.storage.sqlite.memories import SqliteMemories
from memory.storage.sqlite.messages import SqliteMessages, SqliteSources
from memory.storage.sqlite.names import SqliteNames
from memory.storage.sqlite.removal import SqliteRemoval
from memory.storage.sqlite.requests import SqliteRequests
from memory.storage.sqlite.vectors import SqliteVectors


class SqliteTransaction:
    """The groups that ``memory.storage.base.Transaction`` asks for. ``db`` is for this backend's own tests and
    migrations."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.cubes = SqliteCubes(db)
        self.memories = SqliteMemories(db)
        self.lists = SqliteLists(db)
        self.history = SqliteHistory(db)
        self.messages = SqliteMessages(db)
        self.sources = SqliteSources(db)
        self.removal = SqliteRemoval(db)
        self.texts = SqliteTexts(db)
        self.vectors = SqliteVectors(db)
        self.names = SqliteNames(db)
        self.candidates = SqliteCandidates(db)
        self.documents = SqliteDocuments(db)
        self.feedback = SqliteFeedback(db)
        self.jobs = SqliteJobs(db)
        self.keys = SqliteKeys(db)
        self.requests = SqliteRequests(db)
