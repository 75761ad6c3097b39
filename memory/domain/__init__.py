"""Work on memories: adding, changing, erasing, feedback, documents, cubes, bundles, jobs, keys."""
