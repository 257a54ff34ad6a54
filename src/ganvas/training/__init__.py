"""Training: plan.py chooses, session.py begins or resumes, loop.py trains, the rest serves these three."""
