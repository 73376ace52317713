# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Objects of a film, followed from frame to frame."""

import numpy as np
import torch
from mmengine.structures import InstanceData
from torchvision.ops import nms

from dito.visualization.objects import SHOWN_IOU

from .films import Film
from .results import Detections

#: In ``instances_id``, of what belongs to no track.
NO_TRACK = -1
# Boxes of so much of the least score keep a track alive, but are not shown.
_LOW = 1 / 3


class Tracks:
    """Give the objects of a film numbers, by ByteTrack (trackers).

    An object keeps its number while its boxes overlap from frame to frame,
    whatever names they have, and for a second after it was lost. Of boxes that
    overlap by an IoU above 0.5 the best alone, which is also the one that is
    drawn, has a number, and only from the second frame on that it is in. The
    source is `ByteTrack <https://arxiv.org/abs/2110.06864>`_.

    Args:
        fps (float): Frames a second that will come.
        score_thr (float): Least score that begins a track.

    Raises:
        ValueError: If the library ``trackers`` is not installed.
    """

    def __init__(self, fps: float, score_thr: float) -> None:
        try:
            from supervision import Detections as Supervised
            from trackers import ByteTrackTracker
        except ImportError as error:
            raise ValueError(
                'Tracks need trackers, which is not installed: pip install '
                '"dito-mmdet[track]", or pip install trackers.'
            ) from error
        self._boxes = Supervised
        self._low = _LOW * score_thr
        self._tracker = ByteTrackTracker(
            frame_rate=fps,
            track_activation_threshold=score_thr,
            high_conf_det_threshold=score_thr,
        )

    def follow(self, found: InstanceData) -> torch.Tensor:
        """Take the objects of the next frame.

        Args:
            found (InstanceData): ``bboxes`` (N, 4) and ``scores`` (N, ).

        Returns:
            Tensor: Numbers from 0 on, int64 (N, ); -1 where there is none.
        """
        boxes, scores = found.bboxes.cpu().float(), found.scores.cpu().float()
        rows = nms(boxes, scores, SHOWN_IOU)
        rows = rows[scores[rows] >= self._low]
        given = self._boxes(
            xyxy=boxes[rows].numpy(),
            confidence=scores[rows].numpy(),
            data=dict(row=rows.numpy()),
        )
        numbers = torch.full((len(boxes),), NO_TRACK)
        tracked = self._tracker.update(given)
        if len(tracked):
            where = torch.from_numpy(np.asarray(tracked.data['row'], np.int64))
            numbers[where] = torch.from_numpy(
                np.asarray(tracked.tracker_id, np.int64)
            )
        return numbers


class Followed:
    """The tracks of films that come one after the other.

    Args:
        score_thr (float): As of :class:`Tracks`.

    Raises:
        ValueError: If the library ``trackers`` is not installed.
    """

    def __init__(self, score_thr: float) -> None:
        self._score_thr = score_thr
        self._film: Film | None = None
        self._tracks = Tracks(1, score_thr)

    def number(self, found: Detections, film: Film) -> None:
        """Note the tracks of what was found in the next frame of a film."""
        if film is not self._film:
            self._film = film
            self._tracks = Tracks(film.fps, self._score_thr)
        found.number(self._tracks.follow(found.every.pred_instances))
