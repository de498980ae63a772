//! The shell around [`Machine`]: a byte stream for whoever is above, and a task that reads and writes the libp2p
//! streams below.
//!
//! [`open`] gives three things: the [`CarrierLink`] that SHS runs on, the [`Mobile`] by which the session is known
//! and moved, and the [`Runner`], which somebody has to poll. They share the machine under a lock that is never
//! held across a wait. What the runner tells ([`News`]) is for the swarm, which decides where to move.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::machine::{End, Machine, Role, StreamNo};
use super::policy::Allowance;
use super::{Claim, Ends, Poke, ResetCode, ResumeKey, SessionId};
use crate::conn::Link;
use crate::shs::AcceptKey;

mod lane;
mod runner;
#[cfg(test)]
mod tests;

use lane::Lane;
pub(crate) use runner::{Move, News, Runner, Told};

/// Most bytes of all sessions together that wait for acknowledgements.
pub(crate) const MAX_UNACKNOWLEDGED_IN_ALL: usize = 64 * 1024 * 1024;

/// What all sessions of a node share.
#[derive(Debug, Default)]
pub(crate) struct Budget(AtomicUsize);

impl Budget {
    fn left(&self) -> usize {
        MAX_UNACKNOWLEDGED_IN_ALL.saturating_sub(self.0.load(Ordering::Relaxed))
    }

    fn change(&self, from: usize, to: usize) {
        self.0.fetch_add(to.wrapping_sub(from), Ordering::Relaxed);
    }
}

/// Names a session that can move while the node runs; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MobileId(pub(crate) u64);

/// A session that can move from path to path, if the peer's node can do that too.
#[derive(Clone)]
pub struct Mobile(Arc<Shared>);

impl Mobile {
    /// Which one.
    pub fn id(&self) -> MobileId {
        self.0.id
    }

    /// How many bytes a relay lets a circuit carry like the one that the session runs on now. `None` where no relay
    /// has a say.
    pub fn granted(&self) -> Option<u64> {
        let granted = self.0.granted.load(Ordering::Relaxed);
        (granted != UNLIMITED).then_some(granted)
    }

    /// The session runs on another path.
    pub(crate) fn set_granted(&self, bytes: Option<u64>) {
        self.0.granted.store(bytes.unwrap_or(UNLIMITED), Ordering::Relaxed);
    }

    /// SHS has ended: from now on the session can move.
    pub(crate) fn arm(&self, accept_key: &AcceptKey) {
        let key = ResumeKey::new(accept_key, self.0.ends.clone());
        self.0.with(|state| state.machine.arm(key));
    }

    /// Whether the peer does not know the carrier.
    pub(crate) fn is_unsupported(&self) -> bool {
        self.0.unsupported.load(Ordering::Relaxed)
    }

    /// Hands in something from outside.
    pub(crate) fn bring(&self, arrival: Arrival) {
        self.0.with(|state| {
            if state.machine.end().is_none() && state.arrivals.len() < MAX_ARRIVALS {
                state.arrivals.push_back(arrival);
            }
        });
    }

    /// A POKE for a new stream.
    pub(crate) fn poke(&self) -> Option<Bytes> {
        self.0.with(|state| state.machine.poke())
    }

    /// The responder asks to be moved to another path.
    pub(crate) fn poked(&self, poke: &Poke) -> Result<(), ResetCode> {
        self.0.with(|state| state.machine.poked(poke))
    }
}

impl fmt::Debug for Mobile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mobile").field(&self.0.id.0).finish()
    }
}

/// In place of a number of bytes.
const UNLIMITED: u64 = u64::MAX;
/// Things from outside that may wait for a runner.
const MAX_ARRIVALS: usize = 16;

/// What the relay under a stream lets it carry, and what was carried.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    pub(crate) granted: u64,
    /// Both ways; whoever reads and writes the stream counts.
    pub(crate) carried: Arc<AtomicU64>,
}

impl Meter {
    /// As it is now.
    pub(crate) fn allowance(&self) -> Allowance {
        Allowance::new(self.granted, self.carried.load(Ordering::Relaxed))
    }
}

/// From outside, for a runner.
pub(crate) enum Arrival {
    /// A stream to move to. With a claim, ATTACH has come over it; without, it is to be asked.
    Stream { no: StreamNo, stream: Box<dyn Link>, meter: Option<Meter>, claim: Option<Claim> },
    /// A stream to move to is no longer waited for.
    Abandoned(StreamNo),
    /// The path of now has answered.
    Answered,
    /// How long its round trip is.
    RoundTrip(Duration),
}

struct Shared {
    id: MobileId,
    ends: Ends,
    budget: Arc<Budget>,
    unsupported: AtomicBool,
    granted: AtomicU64,
    state: Mutex<State>,
}

struct State {
    machine: Machine,
    /// As the budget has it.
    held: usize,
    arrivals: VecDeque<Arrival>,
    runner: Option<Waker>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something from outside the runner, which then looks what follows from it.
    fn with<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = change(&mut state);
        self.count(&mut state);
        if let Some(runner) = state.runner.take() {
            runner.wake();
        }
        result
    }

    fn count(&self, state: &mut State) {
        let held = state.machine.held();
        self.budget.change(state.held, held);
        state.held = held;
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.budget.change(state.held, 0);
    }
}

/// The byte stream above.
pub(crate) struct CarrierLink(Arc<Shared>);

/// What a new session is made of.
pub(crate) struct Opening {
    pub(crate) id: MobileId,
    pub(crate) role: Role,
    pub(crate) sid: SessionId,
    pub(crate) ends: Ends,
    pub(crate) budget: Arc<Budget>,
    /// Where OPEN goes, or has come from; its number is 0.
    pub(crate) first: Box<dyn Link>,
    pub(crate) meter: Option<Meter>,
}

/// A new session. `told` is who hears the runner's news.
pub(crate) fn open(opening: Opening, told: Told) -> (CarrierLink, Mobile, Runner) {
    let Opening { id, role, sid, ends, budget, first, meter } = opening;
    let no = StreamNo(0);
    let state = State {
        machine: Machine::new(role, sid, no),
        held: 0,
        arrivals: VecDeque::new(),
        runner: None,
        reader: None,
        writer: None,
    };
    let shared = Arc::new(Shared {
        id,
        ends,
        budget,
        unsupported: AtomicBool::new(false),
        granted: AtomicU64::new(UNLIMITED),
        state: Mutex::new(state),
    });
    let runner = Runner::new(Arc::clone(&shared), Lane::new(no, first, meter), told, now());
    (CarrierLink(Arc::clone(&shared)), Mobile(shared), runner)
}

#[expect(clippy::disallowed_methods, reason = "this is the shell that gives its machine the clock")]
fn now() -> Instant {
    Instant::now()
}

/// What whoever is above sees of the end.
fn error_of(end: End) -> io::Error {
    let kind = match end {
        End::Done | End::Closed | End::Unarmed => io::ErrorKind::UnexpectedEof,
        End::Expired => io::ErrorKind::TimedOut,
        End::Reset(_) => io::ErrorKind::ConnectionReset,
        End::Misbehaved(_) => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, end)
}

impl AsyncRead for CarrierLink {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        let (was_full, had_ack) = (state.machine.is_unread_full(), state.machine.has_ack());
        let before = buffer.filled().len();
        while let Some(bytes) = state.machine.read(now(), buffer.remaining()) {
            buffer.put_slice(&bytes);
        }
        if buffer.filled().len() > before {
            let acknowledges = state.machine.has_ack_now() || (state.machine.has_ack() && !had_ack);
            if (was_full || acknowledges)
                && let Some(runner) = state.runner.take()
            {
                runner.wake();
            }
            return Poll::Ready(Ok(()));
        }
        if state.machine.is_at_end() || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if let Some(end) = state.machine.end() {
            return Poll::Ready(Err(error_of(end)));
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for CarrierLink {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let allowance = self.0.budget.left();
        self.0.with(|state| {
            if let Some(end) = state.machine.end() {
                return Poll::Ready(Err(error_of(end)));
            }
            let written = state.machine.write(bytes, allowance);
            if written == 0 && !bytes.is_empty() {
                state.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(Ok(written))
        })
    }

    /// Nothing is gained by waiting: what was taken is sent.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.with(|state| state.machine.finish());
        Poll::Ready(Ok(()))
    }
}

impl Drop for CarrierLink {
    fn drop(&mut self) {
        self.0.with(|state| state.machine.close(now()));
    }
}
