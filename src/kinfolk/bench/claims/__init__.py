"""The source's claims about the mechanisms, put to the test: each is a sentence that holds here, or
does not, with the figures.

    claim            what a claim is, and its verdict
    forked           bodies in forked processes, and what they return
    copying          what one copy costs here
    sampled          where the kernel's time goes, by perf
    semaphores       by which two processes take turns
    buffers copies racing sockets signalling relatives datagrams forking     the claims
    trial            the program that puts one to the test, in a process of its own

Rules:
1. A verdict says what was measured, on which kernel it was measured, and how; "holds" and "does not
   hold" follow from the figures by a rule that stands in the code.
2. What can't be measured here is "not measured", with the reason.
3. Bytes copied are counted, where the calls that move them say how many they moved; what they cost
   is measured against one plain copy.
"""
