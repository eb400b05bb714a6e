"""The agent, PID 1 of the VM: standard library, ttrpc and protobuf only."""
