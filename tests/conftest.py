"""Every test computes as a worker does: one thread, and buffers kept."""

from cxrlines.training.process import keep_buffers, use_threads

keep_buffers()
use_threads(1)
