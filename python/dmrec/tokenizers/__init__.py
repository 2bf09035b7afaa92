"""From items to tuples of codes (semantic IDs), and the tree of these tuples."""
