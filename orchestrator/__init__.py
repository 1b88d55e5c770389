"""From a spec to a verdict: planning, running on Ray, judging, keeping and showing. Home of the `farm` command."""
