"""What a run says of itself: metrics on disk, progress on stderr, summary, table and plots at the end."""
