"""`kin bench`: every mechanism measured beside the kernel's own and beside other people's, in one
run.

    sizes statistics machine placement     how it is written, counted, described, placed
    cases results                          what is measured, what was found, the file that keeps it
    subject subjects                       what takes part: channels, the kernel's own, peers/
    messages loops accounting              what happens inside of a case: verified messages,
    participants forked                    timed loops, forked processes
    round_trips streams hand_overs idling  the workloads that move messages, and those that
    *_cases memory_copies                  move none
    stage performing runner session        a fresh process for each case; rounds; a run
    tables text exporting comparing        figures for people, for programs, for CI
    report/ choosing                       the page with plots; which mechanism to choose
    claims/                                the source's claims, put to the test

Rules:
1. Only ratios within one run mean anything: all subjects have their turn in every round, and each
   turn is a fresh process.
2. Payload is written, read and verified; no peer is handicapped, none is helped
   (`kinfolk.bench.subject`).
3. What could not be measured stands in the results, with the reason.
4. Nothing is imported here: a stage, which is measured from its first moment on, is to load what it
   uses.
"""
