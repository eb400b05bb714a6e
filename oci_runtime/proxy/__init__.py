"""L2: the process that stands for a container, or for an exec, on the host; light enough to be there by dozens."""
