"""Text encoders: texts in, one vector each out."""
