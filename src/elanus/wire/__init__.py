"""The only place where protobuf and gRPC exist: client calls in, values to the proxy, replies out."""
