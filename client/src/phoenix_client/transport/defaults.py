"""What a client uses unless told otherwise. Imports nothing, so that `--help` stays quick."""

DEFAULT_TARGET = "127.0.0.1:50051"
DEFAULT_TIMEOUT_S = 5.0
DEFAULT_LOAD_TIMEOUT_S = 600.0
"""Loading a generation reads it whole, compiles it and tests it."""
DEFAULT_MAX_RESPONSE_BYTES = 64 * 2**20
"""gRPC's own limit of 4 MiB is too small for a large batch."""
