"""L3: what this host, and a guest on it, can do: `vmpod check` and `vmpod env`."""
