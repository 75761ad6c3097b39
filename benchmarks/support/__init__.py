"""What several measurements need: the machine, statistics, a server process, policies."""
