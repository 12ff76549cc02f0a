"""What a student has inherited from its teacher, and what it has not."""
