"""DMRec: a second posterior for each user, from language, matched with that of a variational autoencoder."""
