"""Which trackers a run has, where they are, and what is refused before anything starts.

Nothing leaves the machine unless an address, or `wandb: online`, is given. Keys come from the environment alone:
MLFLOW_TRACKING_TOKEN (or _USERNAME and _PASSWORD), NEPTUNE_API_TOKEN, WANDB_API_KEY. The clients' own telemetry is off.
"""

import base64
import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cxrlines.core.errors import Error
from cxrlines.core.text import did_you_mean

TRACKERS = ("tensorboard", "csv", "mlflow", "neptune", "wandb")
_NEPTUNE_OFFLINE = "leave tracking.neptune out for offline runs"


class TrackingError(Error):
    """A tracker that cannot be used: which, why, and the way out."""


@dataclass(frozen=True)
class TrackingSettings:
    """Which trackers a run has and where they are.

    Attributes:
        use: names of `TRACKERS`.
        project: MLflow's experiment; Neptune's and wandb's project, there also `WORKSPACE/PROJECT`.
        root: the folder that all steps of a run share, for `mlflow.db`, `mlartifacts/`, `wandb/` and `.neptune/`;
            None: each tracker's own folder.
        mlflow: a server's address; None: a sqlite file in `root`, for the processes of one machine.
        neptune: address of a server of one's own; None: offline runs in `root`.
        wandb: `offline` (runs in `root`), `online`, or the address of a server of one's own.
        patience_s: seconds that closing waits, for all trackers together, before it kills what has not finished.
            MLflow takes 4 s to make its sqlite file, and several times as long beside busy processes.
    """

    use: tuple[str, ...] = ("tensorboard",)
    project: str = "cxrlines"
    root: str | None = None
    mlflow: str | None = None
    neptune: str | None = None
    wandb: str = "offline"
    patience_s: float = 60.0


def check_trackers(settings: TrackingSettings) -> None:
    """Refuse what cannot work, before anything starts.

    Raises:
        TrackingError: an unknown tracker, a missing package, an address or a project that does not fit, missing keys.
    """
    for name in settings.use:
        if name not in TRACKERS:
            near = did_you_mean(name, TRACKERS)
            raise TrackingError(f"tracking.use: {name!r} is no tracker{near}", f"allowed: {', '.join(TRACKERS)}")
        found = importlib.util.find_spec(name)
        if name != "csv" and (found is None or found.origin is None):  # without an origin: only a folder of that name
            raise TrackingError(
                f"tracking.use: {name} needs a package that is not installed; nothing was started",
                f'pip install "cxrlines[{name}]", or take {name} out of tracking.use',
            )
    if not settings.patience_s > 0:
        raise TrackingError(f"tracking.patience_s is {settings.patience_s}", "give more than 0 seconds")
    if "mlflow" in settings.use and settings.mlflow is not None:
        _check_address("tracking.mlflow", settings.mlflow, "leave it out for a sqlite file in the run's folder")
    if "neptune" in settings.use and settings.neptune is not None:
        _check_neptune(settings.neptune, settings.project)
    if "wandb" in settings.use and settings.wandb != "offline":
        _check_wandb(settings.wandb)


def _check_address(field: str, address: str, otherwise: str) -> None:
    try:
        parts = urlsplit(address)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        fits = False
    if not fits:
        raise TrackingError(f"{field} is {address!r}", f"give a server as http(s)://HOST:PORT, or {otherwise}")
    if parts.username or parts.password:
        raise TrackingError(
            f"{field}: the address of {parts.hostname} holds a name or password, which would be written into the run",
            "give them in the environment (MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, NEPTUNE_API_TOKEN, "
            "WANDB_API_KEY)",
        )


def _check_neptune(address: str, project: str) -> None:
    _check_address("tracking.neptune", address, _NEPTUNE_OFFLINE)
    _refuse_hosted("tracking.neptune", address)
    token = os.environ.get("NEPTUNE_API_TOKEN", "").strip()
    if not token:
        raise TrackingError(
            f"tracking.neptune is {address}, but NEPTUNE_API_TOKEN is not set",
            f"set it to a token of that server, or {_NEPTUNE_OFFLINE}",
        )
    try:
        issued = str(json.loads(base64.b64decode(token))["api_address"])
    except (ValueError, KeyError, TypeError):
        raise TrackingError(
            "NEPTUNE_API_TOKEN is not a Neptune token", f"copy it again from your server, or {_NEPTUNE_OFFLINE}"
        ) from None
    _refuse_hosted("NEPTUNE_API_TOKEN", issued)
    if urlsplit(issued).netloc.lower() != urlsplit(address).netloc.lower():  # the client goes where the token says
        raise TrackingError(
            f"tracking.neptune is {address}, but NEPTUNE_API_TOKEN is of {urlsplit(issued).netloc}",
            "give the address and the token of one server",
        )
    if "/" not in project and not os.environ.get("NEPTUNE_PROJECT"):
        raise TrackingError(
            f"tracking.project is {project!r}, which a Neptune server does not know",
            "give WORKSPACE/PROJECT, there or in NEPTUNE_PROJECT",
        )


def _refuse_hosted(field: str, address: str) -> None:
    host = (urlsplit(address).hostname or "").lower()
    if host == "neptune.ai" or host.endswith(".neptune.ai"):
        raise TrackingError(
            f"{field} is of {host}: Neptune's hosted service ended in March 2026",
            f"{_NEPTUNE_OFFLINE}, give the address and token of a server of your own, or use another tracker",
        )


def _check_wandb(mode: str) -> None:
    if mode != "online":
        _check_address("tracking.wandb", mode, "offline, or online")
    keys = [os.environ.get("WANDB_API_KEY"), os.environ.get("WANDB_IDENTITY_TOKEN_FILE")]
    netrc = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    if not any(keys) and not any(path and Path(path).expanduser().is_file() for path in netrc):
        raise TrackingError(
            f"tracking.wandb is {mode}, but there is no key",
            "set WANDB_API_KEY, run `wandb login`, or use `wandb: offline`",
        )
