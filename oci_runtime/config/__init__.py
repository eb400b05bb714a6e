"""L1: the configuration of vmpod: defaults, files, drop-ins."""
