"""The fusion models: one file each, named here and nowhere else."""

MODELS = {
    "rnn": "fusion.models.rnn:AudiovisualRNN",
}
