"""From a trained model to answers: features of a new video by the recipes in a checkpoint, its prediction, and the files that hold it."""
