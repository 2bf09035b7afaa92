"""Items cut into shards, and the processes that hold them: layers, losses and rankings over all of them.

The number of shards is part of a run, the number of processes is not. Every sum over items is one binary tree over the
shards, so that results are equal bit for bit on 1, 2, 4 .. processes.
"""
