"""L1: the ttRPC protocol and the messages of the agent, shared by host and guest."""
