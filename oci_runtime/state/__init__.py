"""L2: records and locks below the state directory."""
