"""The queue before the device: ordered by deadline, bounded, and honest about what it can do."""
