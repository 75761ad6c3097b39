"""Tables, charts and pages made of committed results."""
