"""containerd's messages: .proto files of our own and the modules generated from them by scripts/proto.sh."""
