"""Scripts that measured the numbers in the documents, and the JSON they wrote (``results/``)."""
