"""The backbones: one file each, named here and nowhere else."""

BACKBONES = {
    "conv1d": "extract.backbones.conv1d:Conv1d",
    "mobilefacenet": "extract.backbones.mobilefacenet:MobileFaceNet",
}
