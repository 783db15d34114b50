"""One module per version; their sum equals `node.records`, which a test holds."""
