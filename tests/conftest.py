"""Every test computes as a worker does: one thread, and buffers kept."""

import cv2
import torch

from cxrlines.training.process import keep_buffers

keep_buffers()
torch.set_num_threads(1)
cv2.setNumThreads(1)
