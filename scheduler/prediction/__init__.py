"""Next-scene prediction: what the coming turns will need, what it is worth to have it ready, and bringing it up."""
