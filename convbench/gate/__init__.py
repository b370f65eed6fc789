"""Gate: has anything become slower? Pairs of fresh processes, exact tests, four verdicts.

statistics  the few numbers that decide, each from one function
verdicts    FASTER, SLOWER, SAME or INCONCLUSIVE from the evidence on every cell, errors of the whole gate bounded
procedure   which pairs to take next, and the evidence in those taken: pure functions of the journal
facts       what must not change at all: status, algorithm, error, parameters, MACs, bytes
sides       what BASE and HEAD are: git revisions, environments, implementations
verification  each side's own verification, whose facts are compared
worker      one side's process, and pairs: three of them taking turns
records     the evidence in two stored runs, without processes
publish     Markdown, JUnit XML, GitHub annotations
"""
