"""L1: the OCI runtime specification's config.json, as typed models and as a schema."""
