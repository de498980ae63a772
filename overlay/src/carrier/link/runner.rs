//! The task of one session.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::Sleep;

use super::super::Liveness;
use super::super::frame::Frame;
use super::super::liveness::Doubt;
use super::super::machine::{End, Input, Output, StreamNo};
use super::lane::Lane;
use super::{Arrival, MobileId, Shared, State, now};
use crate::swarm;

/// How long a stream that is no longer used may take to say its last frame.
const CLOSING: Duration = Duration::from_secs(2);
/// How often a program that waits for the node's budget looks again, and news for room in their queue.
const RETRY: Duration = Duration::from_millis(20);
/// Rounds of reading and writing before others have their turn.
const ROUNDS: usize = 16;
/// Streams of a session at a time: that of now, one to move to, and some that are being closed.
const MAX_LANES: usize = 8;

/// What there is to know of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// It can move from now on.
    Armed,
    /// It runs on this stream now.
    Moved(StreamNo, Move),
    /// It could not move to this stream.
    NotMoved(StreamNo),
    /// Its stream is gone.
    Detached,
    /// Its path is to be asked whether it lives.
    Ask,
    /// Its path does not answer.
    Silent,
    /// What was silent speaks again.
    Heard,
    /// What the relay lets its circuit carry is nearly used up.
    RunsOut,
    /// It is over.
    Ended(End),
}

/// How a move went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    /// For how long nothing could come.
    pub(crate) gap: Duration,
    /// Bytes that we said again.
    pub(crate) resent: u64,
}

/// Who hears the news.
pub(crate) type Told = mpsc::Sender<(MobileId, News)>;

/// The task; see the module's parent.
pub(crate) struct Runner {
    shared: Arc<Shared>,
    lanes: Vec<Lane>,
    told: Told,
    unsaid: VecDeque<News>,
    liveness: Liveness,
    round_trip: Duration,
    armed: bool,
    silent: bool,
    /// Since when nothing can have come, if the path is gone or silent.
    outage: Option<Instant>,
    /// When the last frame came, and when the last attempt to move began.
    heard: Instant,
    attempt: Instant,
    resent: u64,
    heard_any: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Runner {
    pub(super) fn new(shared: Arc<Shared>, first: Lane, told: Told, now: Instant) -> Self {
        Self {
            shared,
            lanes: vec![first],
            told,
            unsaid: VecDeque::new(),
            liveness: Liveness::new(now),
            round_trip: Duration::ZERO,
            armed: false,
            silent: false,
            outage: None,
            heard: now,
            attempt: now,
            resent: 0,
            heard_any: false,
            timer: None,
        }
    }

    /// Takes what came from outside.
    fn take_arrivals(&mut self, state: &mut State, now: Instant) {
        while let Some(arrival) = state.arrivals.pop_front() {
            match arrival {
                Arrival::Stream { no, .. } if self.lanes.len() >= MAX_LANES => {
                    self.unsaid.push_back(News::NotMoved(no));
                }
                Arrival::Stream { no, stream, meter, claim } => {
                    self.lanes.push(Lane::new(no, stream, meter));
                    self.attempt = now;
                    let input = match claim {
                        Some(claim) => Input::Attached { stream: no, claim },
                        None => Input::Attach(no),
                    };
                    state.machine.handle(now, input);
                }
                Arrival::Abandoned(no) if state.machine.current() == Some(no) => {}
                Arrival::Abandoned(no) => {
                    state.machine.handle(now, Input::Lost(no));
                    self.lanes.retain(|lane| lane.no != no);
                }
                Arrival::Answered => {
                    self.liveness.answered(now);
                    self.speaks_again();
                }
                Arrival::RoundTrip(round_trip) => self.round_trip = round_trip,
            }
        }
    }

    fn falls_silent(&mut self, now: Instant) {
        if !self.silent {
            self.silent = true;
            self.outage.get_or_insert(if self.liveness.is_expecting() { self.heard } else { now });
            self.unsaid.push_back(News::Silent);
        }
    }

    fn speaks_again(&mut self) {
        if self.silent {
            (self.silent, self.outage) = (false, None);
            self.unsaid.push_back(News::Heard);
        }
    }

    /// Reads and writes one stream as far as it goes now. Whether anything moved.
    fn poll_lane(&mut self, index: usize, cx: &mut Context<'_>, now: Instant) -> bool {
        let (lane, shared) = (&mut self.lanes[index], &self.shared);
        let (no, meter) = (lane.no, lane.meter.clone());
        let mut moved = false;
        let written = lane.poll_write(cx, || {
            let mut state = shared.lock();
            let machine = &mut state.machine;
            if machine.current() == Some(no) {
                machine.set_window(meter.as_ref().map_or(u64::MAX, |meter| meter.allowance().window()));
            }
            let frame = machine.poll_transmit(now, no);
            moved |= frame.is_some();
            frame
        });
        if lane.closing.is_some() {
            return moved;
        }
        if let Poll::Ready(Err(error)) = written {
            self.lose(no, &error, now);
            return true;
        }
        let wants = shared.lock().machine.wants_input(no);
        if !wants {
            return moved;
        }
        match lane.poll_read(cx) {
            Poll::Pending => moved,
            Poll::Ready(Ok(0)) => {
                self.lose(no, &io::ErrorKind::UnexpectedEof.into(), now);
                true
            }
            Poll::Ready(Err(error)) => {
                self.lose(no, &error, now);
                true
            }
            Poll::Ready(Ok(_)) => {
                self.take_frames(index, now);
                true
            }
        }
    }

    fn lose(&mut self, no: StreamNo, error: &io::Error, now: Instant) {
        let mut state = self.shared.lock();
        if !self.heard_any && swarm::is_unsupported(error) {
            self.shared.unsupported.store(true, Ordering::Relaxed);
        }
        tracing::trace!(?no, %error, "a stream under a session is gone");
        state.machine.handle(now, Input::Lost(no));
        self.lanes.retain(|lane| lane.no != no);
    }

    fn take_frames(&mut self, index: usize, now: Instant) {
        let lane = &mut self.lanes[index];
        let stream = lane.no;
        let mut state = self.shared.lock();
        let is_current = state.machine.current() == Some(stream);
        loop {
            let input = match Frame::decode(&mut lane.line) {
                Ok(Some(frame)) => Input::Frame { stream, frame },
                Ok(None) => break,
                Err(error) => Input::Broken { stream, error },
            };
            let broken = matches!(input, Input::Broken { .. });
            state.machine.handle(now, input);
            if broken {
                break;
            }
        }
        drop(state);
        self.heard_any = true;
        if is_current {
            self.heard = now;
            self.liveness.heard(now);
            self.speaks_again();
        }
    }

    /// Does what the machine wants.
    fn take_outputs(&mut self, state: &mut State, now: Instant) {
        while let Some(output) = state.machine.poll_output() {
            match output {
                Output::Use(no) => self.took(no, state.machine.resent(), now),
                Output::Close(no) => self.close(no, now),
                Output::NotAttached(no) => {
                    self.close(no, now);
                    self.unsaid.push_back(News::NotMoved(no));
                }
                Output::Detached => {
                    self.outage.get_or_insert(if self.liveness.is_expecting() { self.heard } else { now });
                    self.unsaid.push_back(News::Detached);
                }
                Output::Ended(end) => self.unsaid.push_back(News::Ended(end)),
            }
        }
        if !self.armed && state.machine.is_armed() {
            self.armed = true;
            self.unsaid.push_back(News::Armed);
        }
    }

    fn took(&mut self, no: StreamNo, resent: u64, now: Instant) {
        let since = self.outage.take().unwrap_or(self.heard.max(self.attempt));
        let gap = now.saturating_duration_since(since);
        let again = resent - std::mem::replace(&mut self.resent, resent);
        self.unsaid.push_back(News::Moved(no, Move { gap, resent: again }));
        self.silent = false;
        self.heard = now;
        self.liveness = Liveness::new(now);
        self.round_trip = Duration::ZERO;
    }

    fn close(&mut self, no: StreamNo, now: Instant) {
        for lane in self.lanes.iter_mut().filter(|lane| lane.no == no) {
            lane.closing.get_or_insert(now + CLOSING);
        }
    }

    /// Lets go of streams that have said their last frame, or had their time.
    fn drop_closed(&mut self, cx: &mut Context<'_>, now: Instant) {
        let shared = &self.shared;
        self.lanes.retain_mut(|lane| {
            let Some(until) = lane.closing else { return true };
            let left = shared.lock().machine.has_transmit(now, lane.no);
            let open = left || lane.poll_shutdown(cx).is_pending();
            open && now < until
        });
    }

    /// Another circuit is sought before the grant of this one is used up.
    fn watch_grant(&mut self, state: &State) {
        let current = state.machine.current();
        let here = self.lanes.iter_mut().find(|lane| Some(lane.no) == current);
        if here.is_some_and(Lane::begins_to_run_out) {
            self.unsaid.push_back(News::RunsOut);
        }
    }

    /// Whoever waits above for what there is now.
    fn wake_above(&self, state: &mut State) {
        let over = state.machine.end().is_some();
        if over || state.machine.has_bytes() || state.machine.is_at_end() {
            state.reader.take().into_iter().for_each(|reader| reader.wake());
        }
        if over || (!state.machine.is_full() && self.shared.budget.left() > 0) {
            state.writer.take().into_iter().for_each(|writer| writer.wake());
        }
    }

    fn say_news(&mut self) {
        while let Some(news) = self.unsaid.pop_front() {
            match self.told.try_send((self.shared.id, news)) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full((_, news))) => return self.unsaid.push_front(news),
                // The swarm has ended: nobody moves anything any more.
                Err(mpsc::error::TrySendError::Closed(_)) => self.unsaid.clear(),
            }
        }
    }

    fn handle_timeouts(&mut self, state: &mut State, now: Instant) {
        state.machine.handle_timeout(now);
        self.liveness.set_waiting(now, state.machine.is_waiting());
        if !self.armed || state.machine.current().is_none() {
            return;
        }
        match self.liveness.handle_timeout(now, self.round_trip) {
            Some(Doubt::Ask) => self.unsaid.push_back(News::Ask),
            Some(Doubt::Silent) => self.falls_silent(now),
            None => {}
        }
    }

    fn next_timeout(&self, state: &State, now: Instant) -> Option<Instant> {
        let watched = self.armed && state.machine.current().is_some();
        let liveness = watched.then(|| self.liveness.poll_timeout(self.round_trip)).flatten();
        let closing = self.lanes.iter().filter_map(|lane| lane.closing).min();
        let retries = state.writer.is_some() && !state.machine.is_full() || !self.unsaid.is_empty();
        let retry = retries.then(|| now + RETRY);
        [state.machine.poll_timeout(), liveness, closing, retry].into_iter().flatten().min()
    }

    fn set_timer(&mut self, at: Option<Instant>) {
        match (&mut self.timer, at) {
            (Some(timer), Some(at)) => timer.as_mut().reset(at.into()),
            (None, Some(at)) => self.timer = Some(Box::pin(tokio::time::sleep_until(at.into()))),
            (timer, None) => *timer = None,
        }
    }

    /// One round; whether anything moved.
    fn round(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        self.take_arrivals(&mut state, now);
        self.handle_timeouts(&mut state, now);
        self.take_outputs(&mut state, now);
        self.watch_grant(&state);
        drop(state);
        let mut moved = false;
        for no in self.lanes.iter().map(|lane| lane.no).collect::<Vec<_>>() {
            if let Some(index) = self.lanes.iter().position(|lane| lane.no == no) {
                moved |= self.poll_lane(index, cx, now);
            }
        }
        let mut state = shared.lock();
        self.take_outputs(&mut state, now);
        shared.count(&mut state);
        self.wake_above(&mut state);
        drop(state);
        self.drop_closed(cx, now);
        moved
    }
}

impl Future for Runner {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        for _ in 0..ROUNDS {
            let now = now();
            // Before the round: what comes from outside meanwhile has somebody to wake.
            this.shared.lock().runner = Some(cx.waker().clone());
            let moved = this.round(cx, now);
            this.say_news();
            let shared = Arc::clone(&this.shared);
            let state = shared.lock();
            if state.machine.end().is_some() && this.lanes.is_empty() && this.unsaid.is_empty() {
                return Poll::Ready(());
            }
            if moved {
                continue;
            }
            let at = this.next_timeout(&state, now);
            drop(state);
            this.set_timer(at);
            let due = this.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready());
            if !due {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
