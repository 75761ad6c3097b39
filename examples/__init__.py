"""Short scripts that show one thing each; the tests run them."""
