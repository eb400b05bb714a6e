"""L2: the pod's network: what its namespace holds, and how that reaches the guest."""
