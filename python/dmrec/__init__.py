"""DMRec: generative recommenders whose users have a second posterior, from language."""
