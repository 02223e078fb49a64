"""What an act may ask of the world: each effect a frozen value, with the type of what comes of it.

`role = yield from AskRole()` yields the effect and gives back its result.  The world raises `Failed` where it does not do what
is asked for, and OSError where the durable state cannot be written; everything else is our bug.  No effect stands in a
`finally`: a noded that is killed cleans up nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from noded.law.promise import Configuration, State
from pgtopology.epoch import Epoch
from pgtopology.lsn import Lsn
from pgtopology.node import Incarnation, Position, Role
from pgtopology.orders import StopMode, Upstream
from pgtopology.timeline import Timeline

T = TypeVar("T")


class Failed(Exception):  # noqa: N818 - it says what became of an effect
    """The world did not do what was asked for; the text says why."""


class Effect(msgspec.Struct, Generic[T], frozen=True):
    """Something that is to be done; *T* is what comes of it."""

    def __iter__(self) -> Generator[Effect[Any], Any, T]:
        """Have it done, and return what came of it."""
        return (yield self)


Steps = Generator[Effect[Any], Any, T]
"""An act under way, which ends with a *T*."""
Act = Steps[T] | Effect[T]
"""What can be done: many steps, or a single effect."""


# Time, and taking turns


class Now(Effect[float], frozen=True):
    """Seconds, of a clock that only goes forward."""


class Pause(Effect[None], frozen=True):
    """Wait."""

    seconds: float


class InTurn(Effect[T], frozen=True):
    """Wait for the turn at PostgreSQL, which one act has at a time, and do *steps* while it is held."""

    steps: Act[T]


class BeginPromotion(Effect[None], frozen=True):
    """Do *steps* beside everything else: a promotion outlives the order that began it."""

    steps: Steps[None]


class AwaitPromotion(Effect[bool], frozen=True):
    """Whether the newest promotion has ended, after at most so long; True if there is none."""

    timeout_s: float


class BeginWork(Effect[None], frozen=True):
    """Do *steps* beside everything else: long work on the data."""

    steps: Steps[None]


# The durable state


class Store(Effect[None], frozen=True):
    """Make *state* durable; only then it holds. Raises OSError."""

    state: State


class RenewState(Effect[None], frozen=True):
    """Put a state file that cannot be read aside, durably. Raises OSError."""


# What is told


class Poke(Effect[None], frozen=True):
    """Something has changed: have it told."""


class Note(Effect[None], frozen=True):
    """A line in the log."""

    event: str
    fields: Mapping[str, object] = msgspec.field(default_factory=dict)
    level: str = "info"


class LearnSlots(Effect[None], frozen=True):
    """These are the slots that are to be on every node."""

    names: tuple[str, ...]


# What there is


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What is known without looking: of PostgreSQL, what it answered last since its start."""

    running: bool = False
    """There is a postmaster."""
    role: Role = Role.NONE
    timeline: Timeline | None = None
    wal_end: Lsn | None = None
    streaming: bool = False
    """Its receiver receives."""
    mute_ms: int = 0
    """For how long it has answered nothing since its start, although it accepts connections."""
    turn_is_taken: bool = False


class Recall(Effect[Known], frozen=True):
    """What is known."""


class Present(msgspec.Struct, frozen=True, kw_only=True):
    """What can be seen without asking PostgreSQL."""

    directory: str
    """PGDATA."""
    state_file: str
    running: bool = False
    """There is a postmaster."""
    ready: bool = False
    """It says that it accepts connections."""
    has_directory: bool = False
    has_data: bool = False
    """There is a control file."""
    standby_signal: bool = False
    """PostgreSQL removes it when it ends recovery, and we never start it without."""
    why_not_yet: str | None = None
    """Why it is not started again at this moment: it keeps ending."""


class Look(Effect[Present], frozen=True):
    """See what there is. Raises OSError."""


class AskRole(Effect[Role], frozen=True):
    """What PostgreSQL is now: whoever cannot be proven a standby is a primary.

    Its files prove it where no session does, unless *by_files* is false: they are no basis for destroying anything while it
    runs, because a recovery may be ending.
    """

    by_files: bool = True


class ReadTimeline(Effect[Timeline], frozen=True):
    """The newest timeline of which there is a WAL segment."""


# PostgreSQL


class Start(Effect[Position | None], frozen=True):
    """Write the whole *configuration*, durably, and start PostgreSQL as a standby (S10, S18).

    No process of the data directory may be left. What comes of it: where the WAL ends that it starts with, if its files tell,
    which is so for a primary that was shut down in good order.
    """

    configuration: Configuration


class Stop(Effect[None], frozen=True):
    """Stop PostgreSQL, so that no process of its data directory is left."""

    mode: StopMode
    fast_s: float | None = None
    """A fast stop that takes longer becomes an immediate one; None: the default."""


class Reconfigure(Effect[None], frozen=True):
    """Write *configuration*, durably, and have PostgreSQL read it. Without upstream the password goes first (S2)."""

    configuration: Configuration
    promoted: bool = False
    """This begins a writer: of the former one's standbys nothing is known."""


class ReloadSettings(Effect[None], frozen=True):
    """Write the operator's settings, and have PostgreSQL read them."""


class ForgetPassword(Effect[None], frozen=True):
    """Take the replication password away from PostgreSQL, durably (S2)."""


class EndReceiver(Effect[bool], frozen=True):
    """End the WAL receiver; whether the process table shows none within the time allowed (S2)."""


class RemovePlaceholders(Effect[None], frozen=True):
    """Remove the placeholder histories of a promotion that never was (L8)."""


class ForgetCrashes(Effect[None], frozen=True):
    """Earlier ends of PostgreSQL are no reason to wait with the next start."""


class Checkpoint(Effect[None], frozen=True):
    """Have PostgreSQL write dirty pages out."""

    timeout_s: float


# The end of WAL


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What PostgreSQL says of its WAL."""

    standby: bool
    """By its answer and by its files."""
    timeline: Timeline
    lsn: Lsn
    """As `IDENTIFY_SYSTEM` gives them."""
    received: int
    replayed: Lsn
    at_end: bool
    """The startup process has read all local WAL and has nobody to stream from."""
    paused: bool = False
    """Somebody called pg_wal_replay_pause()."""
    waits_for: str | None = None


class Unanswered(msgspec.Struct, frozen=True):
    """PostgreSQL did not answer."""

    reason: str
    refuses: bool
    """It answered our login with a refusal."""


class AskEnd(Effect[Sample | Unanswered], frozen=True):
    """Ask PostgreSQL where its WAL ends."""


class EndBlockers(Effect[None], frozen=True):
    """End the clients' transactions that replay waits for, if that can be done."""


class ResumeReplay(Effect[None], frozen=True):
    """Let a replay that somebody paused go on, if that can be done."""


class WalkWal(Effect[Position | str], frozen=True):
    """Read where WAL ends as recovery would, from the files of a PostgreSQL that is stopped; or why that is not known."""


class WriterEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How far a primary's WAL is flushed."""

    timeline: Timeline
    lsn: Lsn


class AskWriter(Effect[WriterEnd | None], frozen=True):
    """How far the WAL of *upstream* is flushed; None if it cannot be asked or is no primary of our system."""

    upstream: Upstream


# Promotion, and being the writer


class EnsureSlots(Effect[None], frozen=True):
    """Make the members' slots that are missing, if that can be done soon."""


class PlantPlaceholders(Effect[None], frozen=True):
    """Make every timeline below this one look taken (S3)."""

    timeline: Timeline


class TriggerPromotion(Effect[None], frozen=True):
    """Tell PostgreSQL to end recovery. It cannot be taken back."""

    epoch: Epoch


class AwaitPrimary(Effect[Timeline], frozen=True):
    """Wait until PostgreSQL is a primary, however long it replays; which timeline it has taken.

    Meanwhile sessions that hold up replay are ended. Raises Failed as soon as *still_wanted* says no.
    """

    still_wanted: Callable[[], bool]


class BeginHeartbeat(Effect[None], frozen=True):
    """Beat for this epoch from now on, if not yet done."""

    epoch: Epoch


class EndHeartbeat(Effect[None], frozen=True):
    """This node is the writer no longer."""


# The proof that a list of synchronous standbys is in force


class Late(Failed):
    """It was not done within the time allowed."""


Prover = object
"""A session of its own; what it is, the world knows."""


class InProof(Effect[T], frozen=True):
    """Open a session, and do the steps that *proof* makes with it, for so long at most. Raises Late."""

    proof: Callable[[Prover], Steps[T]]
    timeout_s: float


class AwaitShown(Effect[None], frozen=True):
    """Wait until a new backend shows these synchronous_standby_names."""

    names: str


class AwaitRead(Effect[None], frozen=True):
    """Wait until the checkpointer has handled every reload before this: two checkpoints, for the second one begins after it."""

    prover: Prover


class EndWalsenders(Effect[None], frozen=True):
    """End every walsender that streams now, and see all of them gone; their standbys come back at once."""

    prover: Prover


class AwaitAgreement(Effect[None], frozen=True):
    """Wait until every walsender counts for commits exactly if its name is among *listed*."""

    prover: Prover
    listed: tuple[str, ...]


class CommitBarrier(Effect[Lsn], frozen=True):
    """Make a commit that is acknowledged under the list; where WAL ends after it."""

    prover: Prover


# The data directory


class DrawIncarnation(Effect[Incarnation], frozen=True):
    """What tells a new data directory from all others of its node."""


class MakeData(Effect[str], frozen=True):
    """Make a new cluster's data beside PGDATA; its system identifier."""


class CopyData(Effect[str], frozen=True):
    """Make a complete, durable copy of *source*'s data beside PGDATA, to be known as *incarnation*; its system identifier."""

    source: Upstream
    incarnation: Incarnation


class MakeRoom(Effect[None], frozen=True):
    """Keep the WAL that *source* does not have; where the disk has no room for both, remove the former data first."""

    source: Upstream


class PutInPlace(Effect[None], frozen=True):
    """Let what was made beside PGDATA become it, durably; the former data is set aside."""


class RemoveReplaced(Effect[None], frozen=True):
    """Remove the data that was set aside, if that can be done now."""


class RewindData(Effect[None], frozen=True):
    """Bring PGDATA back to *source*'s history, durably; its diverged WAL is kept aside (L7)."""

    source: Upstream


class RemoveData(Effect[None], frozen=True):
    """Remove PGDATA."""


# What a noded finds when it starts


class MakePlace(Effect[None], frozen=True):
    """Make the directories that lie beside PGDATA."""


class EndTools(Effect[None], frozen=True):
    """End the copies and rewinds that a killed noded left at work."""


class SweepUp(Effect[None], frozen=True):
    """Remove what unfinished work left beside PGDATA."""


class ReadIdentifier(Effect[str], frozen=True):
    """The system identifier that the control file has."""


class Adopt(Effect[bool], frozen=True):
    """Take over the postmaster that runs in the data directory; whether there is one."""


class RewriteSettings(Effect[None], frozen=True):
    """Write the operator's settings as PostgreSQL shall find them at its next reload."""


class AwaitReady(Effect[bool], frozen=True):
    """Whether PostgreSQL accepts connections, after at most so long."""

    timeout_s: float
