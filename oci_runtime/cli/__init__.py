"""L4: the OCI command line, one file per verb."""
