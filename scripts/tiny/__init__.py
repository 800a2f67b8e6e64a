"""Parts of ``scripts/train_tiny.py``: the corpus, the chat examples, the network and the export of troupe-tiny."""
