"""Training: plan.py chooses options, session.py starts or resumes a run, loop.py trains."""
