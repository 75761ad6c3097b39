"""The measurements of the vLLM engine, which run in its environment."""
