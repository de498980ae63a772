//! One node of the DHT: what it asks, what it answers, and what it does when nobody asks.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::store::{Store, Validate};
use super::{Asker, Contact, DhtReport, Lookup, NodeId, Record, Refusal, Request, Response};

/// Names one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AskId(pub(crate) u64);

/// Names one lookup of whoever asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LookupId(pub(crate) u64);

/// What happens to the machine.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// A node is said to serve the DHT there: by itself (identify), an earlier run, the operator, a
    /// certificate, a neighbour. Believed once it has answered there.
    Candidate(Contact),
    /// A question was answered by the node that we asked, at the host `ip`.
    Answered { ask: AskId, ip: Option<IpAddr>, response: Response },
    /// A question came to nothing.
    Failed(AskId),
    /// Finds the record under a key.
    Get { lookup: LookupId, key: Vec<u8> },
    /// Stores a record at the nodes closest to its key.
    Put { lookup: LookupId, record: Record },
    /// A lookup is no longer wanted; nothing more is heard of it.
    Cancel(LookupId),
    /// Whether we answer others: they reach us at an address of our own.
    Serving(bool),
    /// We are in another network now: what we know of who answers may be wrong.
    NetworkChanged,
}

/// A question to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) id: AskId,
    pub(crate) to: Contact,
    pub(crate) request: Request,
    /// Only an answer on a connection that we dialled counts: it shows that the address is the node's.
    pub(crate) dial: bool,
}

/// How a lookup ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) lookup: LookupId,
    /// For a get: whether a record was found. For a put: whether anybody keeps it.
    pub(crate) success: bool,
    /// For a put: how many keep it.
    pub(crate) stored: usize,
    pub(crate) summary: Summary,
}

/// What it cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) asked: usize,
    pub(crate) failed: usize,
    pub(crate) took: Duration,
    pub(crate) hops: u32,
}

/// What the machine wants.
#[derive(Clone, Debug)]
pub(crate) enum Output {
    Ask(Ask),
    /// A valid record. May come again for the same lookup when a newer one turns up, also after
    /// [`Output::Ended`].
    Found {
        lookup: LookupId,
        value: Vec<u8>,
    },
    Ended(Ended),
    /// For metrics.
    Lookup(Lookup),
    /// [`Dht::report`] has changed.
    Changed,
}

/// See the module's header.
#[derive(Debug)]
pub(crate) struct Dht {
    store: Store,
}

impl Dht {
    /// `seed` makes the choices that are free.
    pub(crate) fn new(own: NodeId, seed: u64, validate: Validate) -> Self {
        let _ = seed;
        Self { store: Store::new(own, validate) }
    }

    pub(crate) fn handle(&mut self, _now: Instant, _unix: Duration, _input: Input) {}

    /// Answers a question; refuses it with the reason. Puts count as answered when the record is kept.
    pub(crate) fn serve(
        &mut self,
        now: Instant,
        unix: Duration,
        from: &Asker,
        request: Request,
    ) -> Result<Response, Refusal> {
        if let Request::PutValue(record) = request {
            self.store.put(now, unix, from, record)?;
        }
        Ok(Response::default())
    }

    /// Nodes of the table for a peer that has none yet, at most [`super::K`], in different networks where
    /// possible.
    pub(crate) fn sample(&self) -> Vec<Contact> {
        Vec::new()
    }

    /// The nodes worth remembering over a restart, best first, at most 64.
    pub(crate) fn to_save(&self) -> Vec<Contact> {
        Vec::new()
    }

    pub(crate) fn report(&self) -> DhtReport {
        DhtReport { records: self.store.len(), ..DhtReport::default() }
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        None
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, _unix: Duration) {
        self.store.handle_timeout(now);
    }
}
