"""Where two answers to one prompt parted: operations are digested as they run, and two such traces compared.

recorder.py digests, digests.py is how, trace.py is what comes of it, compare.py finds the operation to blame, replay.py
runs batches again until two answers part, and rerun.py runs one operation again by itself.
"""
