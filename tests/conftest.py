"""Every test computes as a worker does: one thread, and buffers kept; and under a site key of its own."""

import os

import cv2
import pytest
import torch

from cxrlines.training.process import keep_buffers

keep_buffers()
torch.set_num_threads(1)
cv2.setNumThreads(1)


@pytest.fixture(scope="session", autouse=True)
def site_key(tmp_path_factory):
    """The user's own key stays out of it; other processes inherit this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXRLINES_SITE_KEY", str(tmp_path_factory.mktemp("site") / "site.key"))
        yield os.environ["CXRLINES_SITE_KEY"]
