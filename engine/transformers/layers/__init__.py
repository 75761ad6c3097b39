"""Stand-ins for transformers' layers that compute the same with fewer or quicker steps."""
