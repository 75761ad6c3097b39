"""The texts, questions and scenes that measurements use."""
