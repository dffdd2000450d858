"""What moves in a clip: a mixture of Gaussians per pixel, OpenCV's MOG2, learns the background.

Shape shorthand in this module:
    T: frames     H, W: height and width
"""

import numpy as np


def moving(frames: np.ndarray, *, rate: float, deviations: float) -> np.ndarray:
    """(T, H, W) bool of frames (T, H, W, 3) uint8 in order. All of the first one moves.

    Args:
        rate: of learning.
        deviations: a value further from a mode than these is not its.
    """
    import cv2  # an extra of this package, and only needed here

    subtractor = cv2.createBackgroundSubtractorMOG2(varThreshold=deviations**2, detectShadows=False)
    subtractor.setNMixtures(3)
    subtractor.setBackgroundRatio(0.7)  # of the weight is in modes of the background
    kernel = np.ones((3, 3), np.uint8)
    masks = []
    for frame in frames:
        mask = subtractor.apply(frame, learningRate=rate)  # (H, W)
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, kernel)
        masks.append(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, kernel) > 0)
    return np.stack(masks)
