//! One direction of a tunnel: bytes from a source to a sink, how the source ends, and when the sink takes no more.
//!
//! Invariants: bytes leave in the order in which they came, none twice; while a leftover waits the source is not read
//! (backpressure, bounded by the scratch, see `outlet`); the scratch is given back before anything waits; a direction
//! that is idle holds no buffer.
//!
//! Between two plain sockets the payload of long frames does not come here at all: the kernel moves it through a pipe
//! (see `piped`), up to the next frame header, which is read and judged like all others.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::ReadBuf;

use super::frames::Lane;
use super::pace::{Ahead, Allowance, Pace};
use super::piped::{Filled, LARGE, Leftover, fill};
use crate::clock;
use crate::transport::{SCRATCH_SIZE, Scratch, Transport};

/// Scratch-fulls that one direction moves per turn before other tasks get theirs.
const ROUNDS: usize = 4;

/// What a server that is gone without a Close is told of to its client (RFC 6455 7.4.1).
pub(super) const SERVER_GONE: u16 = 1011;

/// How far a direction is. Only ever moves down this list, from `Open` to one of the others and on to `Over`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// Bytes go on as they come.
    Open,
    /// Everything has been said: what is left goes on, the sink's write side is closed, and the source is discarded.
    Leaving,
    /// The source has ended well; what is left goes on, then the sink's write side is closed.
    Ending,
    /// The source broke; what is left goes on, then the sink is aborted.
    Breaking,
    /// The sink takes nothing any more. The source is still read, and what comes is thrown away: closing a socket
    /// with unread input resets it, and the reset would overtake data that the other direction has delivered.
    Discarding,
    Over,
}

/// What happened in one turn.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Bytes of the source's went on to the sink.
    pub moved: bool,
    /// Bytes of a ping of ours.
    pub own: u64,
    /// There is more to do; the task has to be woken again by itself.
    pub unfinished: bool,
    pub source_end: Option<SourceEnd>,
    pub sink_loss: Option<SinkLoss>,
    /// The source is gone, and the sink has been told so with a Close.
    pub told: bool,
}

/// How a source ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SourceEnd {
    Well,
    /// Reset, or ended after its other half had been found broken.
    Broken,
}

/// How a sink refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SinkLoss {
    /// It had ended before (the socket is "broken pipe"): its last bytes and its end are still to be read.
    Ended,
    /// It broke. Bytes that it sent before may still lie unread; an end that is read after them is no good end.
    Broken,
}

/// What a direction is read from, and how fast that may be.
pub(super) struct Source<'a> {
    pub stream: &'a mut dyn Transport,
    /// `None`: as fast as it comes.
    pub pace: Option<&'a mut Pace>,
}

impl Source<'_> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.pace.as_mut().is_some_and(|pace| pace.take_early(buffer)) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut *self.stream).poll_read(cx, buffer)
    }
}

#[derive(Debug)]
pub(super) struct Direction {
    /// Read but not yet taken by the sink. Boxed, because nearly always there is none.
    pub(super) leftover: Option<Box<Leftover>>,
    /// Bytes that the sink has taken.
    pub carried: u64,
    pub flow: Flow,
    /// The sink has taken bytes since it was last flushed.
    pub(super) unflushed: bool,
    /// What is left over is of a ping of ours.
    pub(super) leftover_own: bool,
    /// The other direction has found this one's source broken.
    source_broken: bool,
    /// What came last was [`LARGE`]: the next may be for the kernel.
    streams: bool,
}

impl Direction {
    pub fn new(early: &[u8]) -> Self {
        // A copy, since a slice of a head's block would keep the whole block alive.
        let leftover = (!early.is_empty()).then(|| Box::new(Leftover::Bytes(Bytes::copy_from_slice(early))));
        Self {
            leftover,
            carried: 0,
            flow: Flow::Open,
            unflushed: false,
            leftover_own: false,
            source_broken: false,
            streams: false,
        }
    }

    /// Whether the sink has taken everything.
    pub fn is_delivered(&self) -> bool {
        self.leftover.is_none()
    }

    /// The source's other half broke: an end of its bytes is no good end.
    pub fn expect_break(&mut self) {
        self.source_broken = true;
    }

    /// The source is gone, or the sink: gives up what is left.
    pub fn give_up(&mut self) {
        self.flow = Flow::Over;
        self.leftover = None;
    }

    /// The sink shall hear no more: the source is only read to its end.
    pub fn discard(&mut self) {
        self.flow = if self.flow == Flow::Open { Flow::Discarding } else { Flow::Over };
        self.leftover = None;
    }

    /// Ends the sink's side as soon as it has what is left, and reads the source to its end.
    pub fn leave(&mut self) {
        if self.flow == Flow::Open {
            self.flow = Flow::Leaving;
        }
    }

    /// Ends the sink's side at once: well, as far as that goes without waiting, or abnormally if it misses bytes of
    /// ours, or of a frame that is not `whole`, or its source has broken and only its end was still to be read.
    pub fn cut(&mut self, cx: &mut Context<'_>, sink: &mut dyn Transport, whole: bool) {
        match self.flow {
            Flow::Open | Flow::Ending | Flow::Leaving if whole && self.leftover.is_none() && !self.source_broken => {
                // Whether it is taken makes no difference: the drop follows.
                if matches!(self.flush(cx, sink), Ok(Poll::Ready(()))) {
                    let _ = Pin::new(sink).poll_shutdown(cx);
                }
            }
            Flow::Open | Flow::Leaving | Flow::Ending | Flow::Breaking => sink.abort(),
            Flow::Discarding | Flow::Over => {}
        }
        self.give_up();
    }

    /// Moves what can be moved now; afterwards the task is woken by whichever side has to go on, unless `unfinished`.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut source: Source<'_>,
        sink: &mut dyn Transport,
        scratch: &Scratch,
        mut lane: Option<Lane<'_>>,
    ) -> Turn {
        let mut turn = Turn::default();
        let carried = self.carried;
        if let Err(error) = self.advance(cx, &mut source, sink, scratch, &mut lane, &mut turn) {
            turn.sink_loss = Some(self.lose_sink(&error));
            turn.unfinished = self.flow != Flow::Over;
        }
        turn.moved = self.carried - carried > turn.own;
        turn
    }

    /// Errors are the sink's.
    fn advance(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Source<'_>,
        sink: &mut dyn Transport,
        scratch: &Scratch,
        lane: &mut Option<Lane<'_>>,
        turn: &mut Turn,
    ) -> io::Result<()> {
        for _ in 0..ROUNDS {
            if self.poll_leftover(cx, sink, scratch, &mut turn.own)?.is_pending() {
                return Ok(());
            }
            match self.flow {
                Flow::Open | Flow::Discarding => {
                    if self.flow == Flow::Open
                        && let Some(close) = lane.as_mut().and_then(Lane::take_close)
                    {
                        self.write(cx, sink, &close)?;
                    } else if self.flow == Flow::Open
                        && let Some(ping) = lane.as_mut().and_then(Lane::take_ping)
                    {
                        turn.own += self.write_own(cx, sink, &ping)?;
                    } else if self.poll_source(cx, source, sink, scratch, lane, turn)?.is_pending() {
                        return self.flush(cx, sink).map(drop);
                    }
                }
                Flow::Leaving => {
                    if self.flush(cx, sink)?.is_pending() || Pin::new(&mut *sink).poll_shutdown(cx)?.is_pending() {
                        return Ok(());
                    }
                    self.flow = Flow::Discarding;
                }
                Flow::Ending => {
                    if self.flush(cx, sink)?.is_ready() && Pin::new(&mut *sink).poll_shutdown(cx)?.is_ready() {
                        self.flow = Flow::Over;
                    }
                    return Ok(());
                }
                Flow::Breaking => {
                    if self.flush(cx, sink)?.is_ready() {
                        sink.abort();
                        self.flow = Flow::Over;
                    }
                    return Ok(());
                }
                Flow::Over => return Ok(()),
            }
        }
        turn.unfinished = true;
        self.flush(cx, sink).map(drop)
    }

    /// Reads once and writes at once. Ready means: go on; pending: the source has nothing now.
    fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Source<'_>,
        sink: &mut dyn Transport,
        scratch: &Scratch,
        lane: &mut Option<Lane<'_>>,
        turn: &mut Turn,
    ) -> io::Result<Poll<()>> {
        // What has a rate to keep to is read: the kernel would move more than is allowed.
        if self.streams
            && self.flow == Flow::Open
            && source.pace.is_none()
            && let Some(poll) = self.poll_splice(cx, source.stream, sink, scratch, lane, turn)?
        {
            return Ok(poll);
        }
        let allowance = self.allowance(source, lane.as_mut());
        let mut lease = scratch.borrow();
        // What is withheld goes back to the front; behind what is read there is room for a Close. No more than that goes
        // on at once: a few bytes above it would be a TLS record and a write of their own.
        let front = lane.as_ref().map_or(0, Lane::withheld);
        let (read, well) = match allowance {
            // A sender that is gone for good need not be waited for.
            Allowance::Wait if source.stream.poll_reset(cx).is_ready() => (0, false),
            Allowance::Wait => return Ok(Poll::Pending),
            Allowance::Read(most) => {
                let mut buffer = ReadBuf::new(&mut lease[front..SCRATCH_SIZE.min(front.saturating_add(most))]);
                match source.poll_read(cx, &mut buffer) {
                    Poll::Pending => return Ok(Poll::Pending),
                    Poll::Ready(Ok(())) => (buffer.filled().len(), true),
                    Poll::Ready(Err(error)) => (0, is_common_end(&error)),
                }
            }
        };
        if read == 0 {
            return self.source_over(well, cx, sink, lane, turn).map(Poll::Ready);
        }
        let is_exceeded = self.spend_bytes(source, lane, read);
        self.streams = read >= LARGE;
        match lane {
            Some(lane) => {
                let counted = lane.counted;
                let forward = lane.pass(&mut lease, front + read);
                if let Some(pace) = &mut source.pace {
                    pace.spend_messages(lane.counted - counted);
                }
                if self.flow == Flow::Open {
                    self.write(cx, sink, &lease[..forward])?;
                }
            }
            None if self.flow == Flow::Open && !is_exceeded => self.write(cx, sink, &lease[..read])?,
            None => {}
        }
        Ok(Poll::Ready(()))
    }

    /// How much may be read. What is thrown away may come as it likes.
    fn allowance(&self, source: &mut Source<'_>, lane: Option<&mut Lane<'_>>) -> Allowance {
        let Some(pace) = &mut source.pace else { return Allowance::Read(usize::MAX) };
        let ahead = lane.as_ref().map_or_else(|| Some(Ahead::default()), |lane| lane.ahead());
        let Some(ahead) = ahead.filter(|_| self.flow == Flow::Open) else {
            pace.lift();
            return Allowance::Read(usize::MAX);
        };
        let now = clock::now();
        if let Some(lane) = lane {
            lane.allowed = lane.counted.saturating_add(pace.messages_left(now));
        }
        pace.allowance(now, ahead)
    }

    /// Accounts for what was read; whether that was too much, which the lane is told.
    fn spend_bytes(&self, source: &mut Source<'_>, lane: &mut Option<Lane<'_>>, read: usize) -> bool {
        let Some(pace) = source.pace.as_mut().filter(|_| self.flow == Flow::Open) else { return false };
        pace.spend_bytes(clock::now(), read);
        if let (true, Some(lane)) = (pace.is_exceeded, lane) {
            lane.exceed();
        }
        pace.is_exceeded
    }

    /// Lets the kernel move what is due of a long frame, or of a stream that nobody looks at; see the module `piped`.
    /// `None`: read and write instead.
    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut dyn Transport,
        sink: &mut dyn Transport,
        scratch: &Scratch,
        lane: &mut Option<Lane<'_>>,
        turn: &mut Turn,
    ) -> io::Result<Option<Poll<()>>> {
        let due = lane.as_ref().map_or(u64::MAX, Lane::unseen);
        let (Some(from), Some(_)) = (source.as_socket(), sink.as_socket()) else { return Ok(None) };
        let pipe = match fill(cx, from, due, scratch) {
            Filled::Pipe(pipe) => pipe,
            Filled::Pending => return Ok(Some(Poll::Pending)),
            Filled::Copy => return Ok(None),
            Filled::Broken(error) => {
                return self.source_over(is_common_end(&error), cx, sink, lane, turn).map(|()| Some(Poll::Ready(())));
            }
        };
        self.streams = pipe.held() >= LARGE;
        if let Some(lane) = lane {
            lane.carry(pipe.held() as u64);
        }
        self.write_piped(cx, sink, pipe, scratch)?;
        Ok(Some(Poll::Ready(())))
    }

    /// The source is at its end, well or not; its sink hears of it.
    fn source_over(
        &mut self,
        well: bool,
        cx: &mut Context<'_>,
        sink: &mut dyn Transport,
        lane: &mut Option<Lane<'_>>,
        turn: &mut Turn,
    ) -> io::Result<()> {
        let was_open = self.flow == Flow::Open;
        turn.source_end = Some(self.end_source(well));
        if was_open && let Some(close) = lane.as_mut().and_then(|lane| lane.source_gone(SERVER_GONE)) {
            // In place of the broken end; see the module `closing`.
            self.flow = Flow::Ending;
            turn.told = true;
            self.write(cx, sink, &close)?;
        }
        Ok(())
    }

    fn end_source(&mut self, well: bool) -> SourceEnd {
        if !well || self.source_broken {
            // A sink that has had its end, or is lost, cannot be broken.
            self.flow = if self.flow == Flow::Discarding { Flow::Over } else { Flow::Breaking };
            return SourceEnd::Broken;
        }
        self.flow = if self.flow == Flow::Discarding { Flow::Over } else { Flow::Ending };
        SourceEnd::Well
    }

    fn lose_sink(&mut self, error: &io::Error) -> SinkLoss {
        self.leftover = None;
        self.unflushed = false;
        self.flow = match self.flow {
            Flow::Open | Flow::Leaving => Flow::Discarding,
            // The source has ended and has nothing more to be read.
            _ => Flow::Over,
        };
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected => SinkLoss::Ended,
            _ => SinkLoss::Broken,
        }
    }
}

/// Whether an error of reading is how peers commonly end a stream: TCP's end without TLS's close_notify. Frames show
/// for themselves whether they are whole, so nothing is believed that should not be.
fn is_common_end(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
}
