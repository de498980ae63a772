//! What the overlay counts of itself; the node turns it into metrics. Labels come from fixed sets.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Source;
use crate::conn::Carrier;
use crate::relay::Tier;

/// The label of what went well.
pub const OK: &str = "ok";

/// All counts since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Events are rare enough for a lock; bytes are not.
    events: Mutex<Events>,
    received: [AtomicU64; CARRIERS],
    sent: [AtomicU64; CARRIERS],
}

/// The counts at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CounterSnapshot {
    /// Dials by carrier and outcome, [`OK`] or the error's label.
    pub dials: BTreeMap<(Carrier, &'static str), u64>,
    /// Inbound links that came to a handshake, by carrier and outcome: [`OK`] or the handshake's error.
    pub accepts: BTreeMap<(Carrier, &'static str), u64>,
    /// Inbound links that were closed before, by carrier and rule: `rate`, `flood`, `crowded`, `busy`.
    pub turned_away: BTreeMap<(Carrier, &'static str), u64>,
    /// Claims heard, by source.
    pub discovered: BTreeMap<Source, u64>,
    /// Events that found no room in the queue to the node.
    pub dropped_events: u64,
    /// Bytes received, by carrier.
    pub received: BTreeMap<Carrier, u64>,
    /// Bytes sent, by carrier.
    pub sent: BTreeMap<Carrier, u64>,
    /// Requests for a reservation with us, by the peer's tier and outcome: [`OK`], `renewed`, or why not.
    pub relay_reservations: BTreeMap<(Tier, &'static str), u64>,
    /// Requests for a circuit through us, by the tier of who opens it and outcome: [`OK`] or why not.
    pub relay_circuits: BTreeMap<(Tier, &'static str), u64>,
    /// Circuits through us that are over, by tier and reason: `ended`, `byte_limit`, `time_limit`, `lost`.
    pub relay_closed: BTreeMap<(Tier, &'static str), u64>,
    /// What became of our own requests for reservations: [`OK`], `refused`, `timeout`, `dial_failed`, and
    /// `lost` for those that ended though we wanted them.
    pub own_reservations: BTreeMap<&'static str, u64>,
    /// Records that we were asked to store, by outcome: [`OK`] or why not.
    pub dht_records: BTreeMap<&'static str, u64>,
    /// Questions of others, by kind: `ping`, `find_node`, `get_value`, `put_value`, `get_providers`.
    pub dht_requests: BTreeMap<&'static str, u64>,
}

type Events = CounterSnapshot;

const ALL: [Carrier; CARRIERS] =
    [Carrier::Net, Carrier::Unix, Carrier::Quic, Carrier::Tcp, Carrier::Relay, Carrier::Ws];
const CARRIERS: usize = 6;

const fn index(carrier: Carrier) -> usize {
    match carrier {
        Carrier::Net => 0,
        Carrier::Unix => 1,
        Carrier::Quic => 2,
        Carrier::Tcp => 3,
        Carrier::Relay => 4,
        Carrier::Ws => 5,
    }
}

impl Counters {
    /// The counts now.
    pub fn snapshot(&self) -> CounterSnapshot {
        let mut snapshot = self.events().clone();
        let read = |counts: &[AtomicU64; CARRIERS]| {
            ALL.into_iter().map(|carrier| (carrier, counts[index(carrier)].load(Ordering::Relaxed))).collect()
        };
        snapshot.received = read(&self.received);
        snapshot.sent = read(&self.sent);
        snapshot
    }

    pub(super) fn dial(&self, carrier: Carrier, outcome: &'static str) {
        *self.events().dials.entry((carrier, outcome)).or_default() += 1;
    }

    pub(super) fn accept(&self, carrier: Carrier, outcome: &'static str) {
        *self.events().accepts.entry((carrier, outcome)).or_default() += 1;
    }

    pub(super) fn turned_away(&self, carrier: Carrier, rule: &'static str) {
        *self.events().turned_away.entry((carrier, rule)).or_default() += 1;
    }

    pub(super) fn discovered(&self, source: Source) {
        *self.events().discovered.entry(source).or_default() += 1;
    }

    pub(super) fn dropped_event(&self) {
        self.events().dropped_events += 1;
    }

    pub(crate) fn relay_reservation(&self, tier: Tier, outcome: &'static str) {
        *self.events().relay_reservations.entry((tier, outcome)).or_default() += 1;
    }

    pub(crate) fn relay_circuit(&self, tier: Tier, outcome: &'static str) {
        *self.events().relay_circuits.entry((tier, outcome)).or_default() += 1;
    }

    pub(crate) fn relay_closed(&self, tier: Tier, reason: &'static str) {
        *self.events().relay_closed.entry((tier, reason)).or_default() += 1;
    }

    pub(crate) fn own_reservation(&self, outcome: &'static str) {
        *self.events().own_reservations.entry(outcome).or_default() += 1;
    }

    pub(crate) fn dht_record(&self, outcome: &'static str) {
        *self.events().dht_records.entry(outcome).or_default() += 1;
    }

    pub(crate) fn dht_request(&self, kind: &'static str) {
        *self.events().dht_requests.entry(kind).or_default() += 1;
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A link whose bytes are counted.
#[derive(Debug)]
pub(crate) struct Counted<L> {
    link: L,
    carrier: usize,
    counters: Arc<Counters>,
    /// Counts the bytes of both directions, too.
    meter: Option<Arc<AtomicU64>>,
}

impl<L> Counted<L> {
    pub(crate) fn new(link: L, carrier: Carrier, counters: Arc<Counters>) -> Self {
        Self { link, carrier: index(carrier), counters, meter: None }
    }

    pub(crate) fn with_meter(self, meter: Arc<AtomicU64>) -> Self {
        Self { meter: Some(meter), ..self }
    }

    fn count(&self, counts: &[AtomicU64; CARRIERS], bytes: u64) {
        counts[self.carrier].fetch_add(bytes, Ordering::Relaxed);
        if let Some(meter) = &self.meter {
            meter.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn count_sent(&self, sent: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = sent {
            self.count(&self.counters.sent, *bytes as u64);
        }
    }
}

impl<L: AsyncRead + Unpin> AsyncRead for Counted<L> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.link).poll_read(cx, buffer);
        let bytes = buffer.filled().len().saturating_sub(before);
        self.count(&self.counters.received, bytes as u64);
        read
    }
}

impl<L: AsyncWrite + Unpin> AsyncWrite for Counted<L> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.link).poll_write(cx, bytes);
        self.count_sent(&sent);
        sent
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.link).poll_write_vectored(cx, slices);
        self.count_sent(&sent);
        sent
    }

    fn is_write_vectored(&self) -> bool {
        self.link.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn bytes_are_counted_by_carrier_in_both_directions() {
        let counters = Arc::new(Counters::default());
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut ours = Counted::new(ours, Carrier::Quic, Arc::clone(&counters));
        ours.write_all(b"hello").await.unwrap();
        theirs.write_all(b"hi").await.unwrap();
        ours.read_exact(&mut [0; 2]).await.unwrap();
        let snapshot = counters.snapshot();
        assert_eq!((snapshot.sent[&Carrier::Quic], snapshot.received[&Carrier::Quic]), (5, 2));
        assert_eq!((snapshot.sent[&Carrier::Net], snapshot.received[&Carrier::Net]), (0, 0));
    }
}
