def describe_trace(directory, seconds):
    return f"traced {directory} {seconds}"
