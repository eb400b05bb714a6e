"""L2: the guest image: building, finding and verifying it."""
