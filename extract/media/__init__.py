"""Video and sound as they are played: containers, timelines, pictures and samples."""
