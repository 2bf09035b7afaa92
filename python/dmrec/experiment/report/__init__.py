"""What is made of an experiment's results: tables in Markdown and LaTeX, and plots."""
