"""What is done with memories: adding, changing, erasing, feedback, documents, cubes, bundles, jobs, keys."""
