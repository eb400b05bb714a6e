"""L2: the host's client of the guest agent."""
