"""Suites, the sandbox for model-written programs, and the runner that turns a loaded tier into samples.

`run.run_suite` runs one suite in one elicitation under a handling decision. It makes samples, never a score.
"""
