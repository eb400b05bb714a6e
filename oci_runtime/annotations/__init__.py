"""L1: what an engine's annotations ask for: the route of a container and its per-pod settings."""
