"""What this machine is, what it can reach, and how quiet it is."""
