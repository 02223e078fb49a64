"""What is to be done now: a view of the cluster in, a plan out. Pure: no clock, no I/O, no chance.

Begin with `decide` in `plan`: it is the list of questions. Then from the top; each file knows only those before it.

What a decision looks at
    `timings`            how patient the manager is: every duration that is compared with an age
    `nodeview`           one node: what it said last, and how long ago each thing last moved
    `request`            what an operator asks for
    `actions`            what may be ordered, and the one thing that may be written
    `flapping`           how soon one failover may follow another upon soft evidence
    `tries`              what became of orders about the machine of a node, and when the next one is due
    `view`               all of it together, as one frozen value

What is the case
    `suspicion`          has this node stopped answering?
    `situation`          what the view says of the cluster, derived once: all that follows takes it
    `slowdisks`          would another writer wait for the same disks?
    `diagnose`           one word for it, and whether the law calls for another writer (F1)
    `observed_members`   what the document notes of each node
    `carrying`           what a handover would do to users' slots
    `prospects`          what would be survived, and whether the cluster is stuck
    `refusal`            may an operator's order be carried out?

Which nodes there are to be
    `leaving`            may a node leave for good?
    `provisioning`       the desired nodes against those that are there: what is due about each

There is no cluster, or its document is lost
    `bootstrap`          making one, on explicit order only
    `adoption`           the document made anew out of what nodes have seen (S12)

There is a writer
    `attempt`            the next document, and what the steps below share
    `proof`              what shows that a commit is on enough voters
    `repair`             bringing every other node to the writer (F7)
    `configuring`        who has not taken over the operator's settings yet
    `difference`         how wanted voters differ from recorded ones, and which side of a change goes first (S9)
    `voter_changes`      carrying that out, one step at a time
    `beside`             these concerns in their order, each an asker

There is none
    `elect`              the greatest position of a safe set, epoch first (F4)
    `recruiting`         gathering promises, and the claim (F3, F5)
    `promoting`          from the claim to the opening (F5, F6)
    `transition`         beginning, and what is due of one that is unfinished (F2)

All together
    `plan`               `decide`: the questions in their order
    `drill`              what the loss of a node would do, by the same election
"""
