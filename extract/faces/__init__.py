"""From a video to the crops of one face: detection, tracking, likeness, and the zips that crops lie in."""
