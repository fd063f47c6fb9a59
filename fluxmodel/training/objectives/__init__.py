"""What the loop can be asked to train, one file each."""
