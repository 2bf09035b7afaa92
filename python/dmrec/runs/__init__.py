"""Run folders: what they hold, what they were made from, how a model comes out of one."""
