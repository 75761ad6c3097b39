"""Finding memories: embedding, vectors in memory, filters, scoring."""
