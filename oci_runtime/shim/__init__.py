"""L4: the containerd shim, version 2."""
