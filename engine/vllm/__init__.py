"""The production engine: vLLM, with a connector over segments. Imported only where vLLM is installed."""
