"""All SQL of the link service, a file for each noun.

Every function takes an open transaction first. Under the serving role row-level security shows the caller's agency
only; `own` narrows further, to what belongs to the clients of one officer.

Locks are taken in one order everywhere, or two transactions could wait for each other: request ids, the agency's
targets, rows, and last the feed. Whoever holds a feed asks for nothing that another transaction may hold.
"""
