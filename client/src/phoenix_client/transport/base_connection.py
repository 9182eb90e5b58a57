"""What the sync and the async connection share: a channel, stubs, and the time limit of calls."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar

import grpc
import grpc.aio
from grpc_health.v1.health_pb2_grpc import HealthStub

from phoenix_client.transport import channels, defaults
from phoenix_retrieval.v1.corpus_service_pb2_grpc import CorpusServiceStub
from phoenix_retrieval.v1.model_service_pb2_grpc import ModelServiceStub
from phoenix_retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub

Channel = TypeVar("Channel", grpc.Channel, grpc.aio.Channel)


class BaseConnection(Generic[Channel]):
    """A channel, the stubs of the services, and the time limit of calls that set none."""

    _grpc: ClassVar[Any]  # the module whose channels it opens: `grpc` or `grpc.aio`

    def __init__(
        self,
        target: str = defaults.DEFAULT_TARGET,
        *,
        timeout_s: float = defaults.DEFAULT_TIMEOUT_S,
        credentials: grpc.ChannelCredentials | None = None,
        max_request_bytes: int | None = None,
        max_response_bytes: int | None = defaults.DEFAULT_MAX_RESPONSE_BYTES,
        channel: Channel | None = None,
    ) -> None:
        """Prepare a connection; the first call opens it.

        Args:
            target: Address of the server: `host:port`, `dns:///name` or `unix:path`.
            timeout_s: Time limit of calls that set none.
            credentials: For TLS, as from `grpc.ssl_channel_credentials()`. None: not encrypted.
            max_request_bytes: Largest message to send. None: as large as the server takes.
            max_response_bytes: Largest message to accept. None: any.
            channel: Use this channel and do not close it. Of the other arguments only `timeout_s`
                then has an effect.

        Raises:
            ValueError: `timeout_s` is not above 0 and finite.
        """
        self._timeout_s = channels.checked_timeout_s(timeout_s)
        self._owns_channel = channel is None
        if channel is None:
            options = channels.channel_options(max_request_bytes, max_response_bytes)
            self._channel: Channel = self._open(target, credentials, options)
        else:
            self._channel = channel
        self._rpcs: dict[str, Any] = {}
        for stub in (RetrievalServiceStub, ModelServiceStub, CorpusServiceStub, HealthStub):
            self._rpcs |= vars(stub(self._channel))

    def _open(
        self, target: str, credentials: grpc.ChannelCredentials | None, options: channels.Options
    ) -> Channel:
        if credentials is None:
            return self._grpc.insecure_channel(target, options)
        return self._grpc.secure_channel(target, credentials, options)

    def _limit_s(self, timeout_s: float | None) -> float:
        """Return the time limit of a call: its own, or the client's if it sets none."""
        return self._timeout_s if timeout_s is None else channels.checked_timeout_s(timeout_s)
