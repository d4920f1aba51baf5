"""The order in which help lists the commands, that of the work, and their examples."""

from __future__ import annotations

import click

from pipelines.console.console import Command

EXAMPLES = {
    "init": ["avfusion init my-project --corpus folder --root my-videos"],
    "doctor": ["avfusion doctor", "avfusion doctor --json"],
    "list": ["avfusion list backbones"],
    "params": ["avfusion params"],
    "corpus": [],
    "corpus build": ["avfusion corpus build"],
    "corpus check": ["avfusion corpus check my-videos --corpus folder", "avfusion corpus check my-videos --decode"],
    "plan": ["avfusion plan"],
    "crops": ["avfusion crops"],
    "transcribe": [
        "avfusion transcribe --punctuate",
        "avfusion transcribe --recogniser vosk:model-folder --out words VIDEO.mp4",
    ],
    "extract": [
        "extract-features --backbone all --dry-run",
        "extract-features --backbone mobilefacenet --weights foamliu --out features VIDEO.mp4",
        "extract-features --backbone all --scheduler tcp://host:8786",
    ],
    "finetune": ["avfusion finetune", "finetune-backbone --run emotion --device cuda"],
    "tune": ["tune-fusion --system fused", "tune-fusion --system fused --space karas2022 --trials 60 --engine optuna"],
    "train": ["train-fusion", "train-fusion --system fused --redo"],
    "evaluate": ["evaluate-fusion", "evaluate-fusion --system fused --partition validation"],
    "matrix": ["avfusion matrix"],
    "compare": ["avfusion compare"],
    "report": ["avfusion report"],
    "reproduce": ["avfusion reproduce karas2022 --table 2"],
    "predict": [
        "predict-affect VIDEO.mp4 --model fused --out answers",
        "predict-affect - --model fused --out answers --live < RECORDING.mkv",
    ],
    "submit": [],
    "submit abaw": ["avfusion submit abaw --sample SAMPLE.txt --runs fused,visual/fold2"],
    "submit muse": ["avfusion submit muse --runs fused"],
    "cache": [],
    "cache ls": ["avfusion cache ls", "avfusion cache ls --features s3://bucket/features"],
    "cache info": ["avfusion cache info mobilefacenet", "avfusion cache info features/receipts/mobilefacenet.json"],
    "cache diff": ["avfusion cache diff mobilefacenet mobilefacenet_tuned"],
    "cache verify": ["avfusion cache verify --against-source 2"],
    "cache prune": ["avfusion cache prune", "avfusion cache prune --yes"],
    "cache export": ["avfusion cache export mobilefacenet out.h5 --to hdf5"],
    "cache import": ["avfusion cache import egemaps --from muse --name egemaps --modality audio"],
    "models": [],
    "models ls": ["avfusion models ls"],
    "models prune": ["avfusion models prune --yes"],
    "unlock": ["avfusion unlock"],
    "completion": [
        "avfusion completion bash >> ~/.bashrc",
        "avfusion completion fish > ~/.config/fish/conf.d/avfusion.fish",
    ],
    "docs": [],
}
"""Command → its examples, in the order of the work."""


def arrange(group: click.Group, path: str = "") -> None:
    """Sort the commands of a group, and of those in it, and give them their examples."""
    places = {name: f"{path} {name}".strip() for name in group.commands}
    order = list(EXAMPLES)
    group.commands = dict(sorted(group.commands.items(), key=lambda item: order.index(places[item[0]])))
    for name, command in group.commands.items():
        if isinstance(command, Command):
            command.examples = tuple(EXAMPLES[places[name]])
        if isinstance(command, click.Group):
            arrange(command, places[name])
