"""The part of the CRI that the client speaks, and the module generated from it by scripts/proto.sh."""
