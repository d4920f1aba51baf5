"""The backbones: one file each, named here and nowhere else."""

BACKBONES = {
    "bert": "extract.backbones.bert:Bert",
    "conv1d": "extract.backbones.conv1d:Conv1d",
    "facenet": "extract.backbones.facenet:FaceNet",
    "mobilefacenet": "extract.backbones.mobilefacenet:MobileFaceNet",
    "resnet50": "extract.backbones.resnet50:ResNet50",
    "vggish": "extract.backbones.vggish:VGGish",
}
