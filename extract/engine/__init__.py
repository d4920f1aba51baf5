"""What computes: the queue of claimed trials, cropping, batches, embedding, devices and runtimes."""
