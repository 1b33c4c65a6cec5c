"""TrackingService: how the public edge is doing, for operators."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import grpc
from opennotice.tracking.v1 import tracking_pb2, tracking_pb2_grpc

from services.chassis.clock import to_proto
from services.tracking.directory import Directory
from services.tracking.recorder import Recorder
from services.tracking.upkeep import Upkeep


class TrackingService(tracking_pb2_grpc.TrackingServiceServicer):
    """Answers GetStatus."""

    def __init__(
        self,
        *,
        directory: Directory,
        recorder: Recorder,
        is_stale: Callable[[], bool],
        upkeep: Upkeep,
        start_time: datetime,
    ) -> None:
        self._directory = directory
        self._recorder = recorder
        self._is_stale = is_stale
        self._upkeep = upkeep
        self._start_time = start_time

    async def GetStatus(
        self, request: tracking_pb2.GetStatusRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> tracking_pb2.Status:
        """Returns the state of this process."""
        return tracking_pb2.Status(
            directory_links=self._directory.state.links,
            directory_revision=self._directory.state.watermark,
            directory_stale=self._is_stale(),
            spooled_opens=self._recorder.spool.size,
            outbox_packs=self._upkeep.outbox_packs,
            unrecorded_opens=self._recorder.unrecorded,
            start_time=to_proto(self._start_time),
        )
