"""The storage backend over one SQLite file. All SQL of the memory store is here."""
