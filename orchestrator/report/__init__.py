"""A run as people and machines read it: terminal, Markdown, HTML, JUnit. Pure: a RunRecord in, text out."""
