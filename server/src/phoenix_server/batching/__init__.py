"""The queue before the device: ordered by deadline, bounded, and honest about what it can do."""

from phoenix_server.batching.batcher import Batcher as Batcher
from phoenix_server.batching.config import QueueConfig as QueueConfig
from phoenix_server.batching.pipeline import Retriever as Retriever
from phoenix_server.batching.stats import QueueStats as QueueStats
