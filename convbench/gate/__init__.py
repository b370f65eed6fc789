"""Gate: has anything become slower? Rounds of fresh processes, exact tests, four verdicts.

statistics    the few numbers that decide, each from one function
verdicts      FASTER, SLOWER, SAME or INCONCLUSIVE from the evidence on every cell, errors of the whole gate bounded
procedure     which processes to start next, and the evidence in those before: pure functions of the journal
facts         what must not change at all: status, algorithm, error, parameters, MACs, bytes
sides         what BASE and HEAD are: git revisions, environments, implementations
verification  what each side's own `convbench verify` says of it
worker        one side's process
quartets      four of them taking turns: two pairs
driver        from two sides to an outcome, by a journal
records       the evidence in two stored runs, without processes
publish       Markdown, JUnit XML, GitHub annotations
"""
