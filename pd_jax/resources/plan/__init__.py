"""What a run takes and does on devices that are not there, by their own compilers."""
