"""L0: the host's kernel, seen through small functions that know nothing of containers."""
