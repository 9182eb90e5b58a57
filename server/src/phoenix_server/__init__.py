"""A gRPC server of exact top-k retrieval over exported Phoenix towers."""
