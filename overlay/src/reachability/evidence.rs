//! What speaks for and against one of our addresses.
//!
//! A server that was asked to dial us back has one vote, its latest, and so have all servers of its
//! network together: a liar can at most turn the scales until others are asked.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::AddressState;

/// How long a vote and a proof hold.
pub(crate) const EVIDENCE_HOLDS: Duration = Duration::from_secs(3 * 60 * 60);
/// Until an address that is known to be reachable is tried again.
pub(crate) const CONFIRMED_PAUSE: Duration = Duration::from_secs(60 * 60);
/// Until any other is.
pub(crate) const DOUBTED_PAUSE: Duration = Duration::from_secs(15 * 60);
/// Most votes on one address. When full, the oldest goes.
pub(crate) const MAX_VOTES: usize = 8;
/// Servers that must have reached an address behind a NAT.
const ENOUGH_TRANSLATED: usize = 2;
/// The same, for an address that is our own.
const ENOUGH_OWN: usize = 1;

/// A neighbourhood on the Internet that counts as one server: an IPv4 /16 or IPv6 /32. All those whom we
/// dialled by name, and so at an IP that we do not know, are one too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Net {
    V4([u8; 2]),
    V6([u8; 4]),
    Named,
}

impl Net {
    pub(super) fn of(ip: Option<IpAddr>) -> Self {
        match ip {
            Some(IpAddr::V4(ip)) => {
                let [a, b, ..] = ip.octets();
                Self::V4([a, b])
            }
            Some(IpAddr::V6(ip)) => {
                let [a, b, c, d, ..] = ip.octets();
                Self::V6([a, b, c, d])
            }
            None => Self::Named,
        }
    }
}

/// How we come by an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// An interface's. With `presumed`, it is held for reachable until somebody finds that it is not.
    Own { presumed: bool },
    /// Others see us there.
    Seen,
    /// The IP at which others see us, with the port on which we listen: there may be a port forwarding.
    Guessed,
}

/// What a server found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// It got through. `independent`: although we had not sent to where it dialled from.
    Reached { independent: bool },
    /// It did not.
    NotReached,
}

#[derive(Clone, Copy, Debug)]
struct Vote<P> {
    by: P,
    finding: Finding,
    at: Instant,
}

/// All that is known of one address.
#[derive(Debug)]
pub(super) struct Evidence<P> {
    pub(super) origin: Origin,
    /// When to have it tried again.
    pub(super) due: Instant,
    votes: BTreeMap<Net, Vote<P>>,
    /// Somebody came in there without having been asked to.
    proven: Option<Instant>,
}

impl<P: Ord + Clone> Evidence<P> {
    pub(super) fn new(now: Instant, origin: Origin) -> Self {
        Self { origin, due: now, votes: BTreeMap::new(), proven: None }
    }

    pub(super) fn vote(&mut self, now: Instant, net: Net, by: P, finding: Finding) {
        self.votes.insert(net, Vote { by, finding, at: now });
        if self.votes.len() > MAX_VOTES {
            let oldest = self.votes.iter().min_by_key(|(_, vote)| vote.at).map(|(net, _)| *net);
            oldest.map(|oldest| self.votes.remove(&oldest));
        }
        let confirmed = self.state() == AddressState::Reachable && self.is_settled();
        self.due = now + if confirmed { CONFIRMED_PAUSE } else { DOUBTED_PAUSE };
    }

    /// Somebody came in: whoever failed before was wrong, or it has changed since.
    pub(super) fn prove(&mut self, now: Instant) {
        self.proven = Some(now);
        self.votes.retain(|_, vote| vote.finding != Finding::NotReached);
    }

    /// What this peer has said is worth nothing.
    pub(super) fn discredit(&mut self, peer: &P) {
        self.votes.retain(|_, vote| vote.by != *peer);
    }

    pub(super) fn expire(&mut self, now: Instant) {
        let fresh = |at: Instant| now.saturating_duration_since(at) < EVIDENCE_HOLDS;
        self.votes.retain(|_, vote| fresh(vote.at));
        self.proven = self.proven.filter(|at| fresh(*at));
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let votes = self.votes.values().map(|vote| vote.at);
        votes.chain(self.proven).min().map(|at| at + EVIDENCE_HOLDS)
    }

    pub(super) fn has_vote_of(&self, net: Net) -> bool {
        self.votes.contains_key(&net)
    }

    /// A tie is decided by what was found, against what was presumed.
    pub(super) fn state(&self) -> AddressState {
        let (ayes, noes) = (self.ayes(), self.noes());
        let presumed = usize::from(matches!(self.origin, Origin::Own { presumed: true }));
        if ayes + presumed >= self.enough() && ayes + presumed > noes {
            AddressState::Reachable
        } else if noes > 0 {
            AddressState::Unreachable
        } else {
            AddressState::Candidate
        }
    }

    /// Whether enough servers agree, so that no further one is asked before time.
    pub(super) fn is_settled(&self) -> bool {
        match self.state() {
            AddressState::Reachable => self.ayes() >= self.enough(),
            AddressState::Unreachable => self.noes() >= ENOUGH_TRANSLATED && self.noes() > self.ayes(),
            AddressState::Candidate => false,
        }
    }

    fn ayes(&self) -> usize {
        let counts = |finding| match (finding, self.origin) {
            (Finding::Reached { independent }, Origin::Seen | Origin::Guessed) => independent,
            (Finding::Reached { .. }, Origin::Own { .. }) => true,
            (Finding::NotReached, _) => false,
        };
        let proofs = if self.proven.is_some() { ENOUGH_TRANSLATED } else { 0 };
        proofs + self.votes.values().filter(|vote| counts(vote.finding)).count()
    }

    fn noes(&self) -> usize {
        self.votes.values().filter(|vote| vote.finding == Finding::NotReached).count()
    }

    const fn enough(&self) -> usize {
        match self.origin {
            Origin::Own { .. } => ENOUGH_OWN,
            Origin::Seen | Origin::Guessed => ENOUGH_TRANSLATED,
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.votes.len()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
mod tests {
    use super::*;

    const ALONE: Finding = Finding::Reached { independent: true };
    const KNOWN: Finding = Finding::Reached { independent: false };
    const NO: Finding = Finding::NotReached;
    const PRESUMED: Origin = Origin::Own { presumed: true };
    const OWN: Origin = Origin::Own { presumed: false };

    fn net(n: usize) -> Net {
        Net::of(Some(IpAddr::from([20, u8::try_from(n).unwrap(), 0, 1])))
    }

    #[test]
    fn votes_are_weighed_by_where_the_address_comes_from() {
        use AddressState::{Candidate, Reachable, Unreachable};
        let table: &[(Origin, &[Finding], AddressState, bool)] = &[
            (PRESUMED, &[], Reachable, false),
            (PRESUMED, &[KNOWN], Reachable, true),
            (PRESUMED, &[NO], Unreachable, false),
            (PRESUMED, &[NO, NO], Unreachable, true),
            (PRESUMED, &[NO, KNOWN], Reachable, true),
            (PRESUMED, &[NO, KNOWN, NO], Unreachable, true),
            (OWN, &[], Candidate, false),
            (OWN, &[KNOWN], Reachable, true),
            (OWN, &[NO], Unreachable, false),
            (OWN, &[NO, ALONE], Unreachable, false),
            (OWN, &[NO, ALONE, ALONE], Reachable, true),
            (Origin::Seen, &[], Candidate, false),
            (Origin::Seen, &[KNOWN, KNOWN, KNOWN], Candidate, false),
            (Origin::Seen, &[ALONE], Candidate, false),
            (Origin::Seen, &[ALONE, KNOWN, ALONE], Reachable, true),
            (Origin::Seen, &[NO], Unreachable, false),
            (Origin::Seen, &[ALONE, NO], Unreachable, false),
            (Origin::Seen, &[ALONE, ALONE, NO], Reachable, true),
            (Origin::Seen, &[NO, ALONE, ALONE, NO], Unreachable, false),
            (Origin::Guessed, &[ALONE, ALONE], Reachable, true),
        ];
        for (origin, findings, state, settled) in table {
            let now = Instant::now();
            let mut evidence = Evidence::new(now, *origin);
            for (n, finding) in findings.iter().enumerate() {
                evidence.vote(now, net(n), n, *finding);
            }
            assert_eq!(
                (evidence.state(), evidence.is_settled()),
                (*state, *settled),
                "{origin:?} {findings:?}"
            );
        }
    }

    #[test]
    fn servers_of_one_network_have_one_vote_the_latest() {
        let now = Instant::now();
        let mut evidence = Evidence::new(now, Origin::Seen);
        for by in 0..9 {
            evidence.vote(now, net(1), by, ALONE);
        }
        assert_eq!(evidence.state(), AddressState::Candidate);
        evidence.vote(now, net(2), 10, ALONE);
        assert_eq!(evidence.state(), AddressState::Reachable);
        evidence.vote(now, net(1), 11, NO);
        assert_eq!(evidence.state(), AddressState::Unreachable);
        evidence.discredit(&11);
        assert_eq!(evidence.state(), AddressState::Candidate);
    }

    #[test]
    fn who_came_in_uninvited_overrules_those_who_could_not() {
        let now = Instant::now();
        let mut evidence = Evidence::new(now, Origin::Seen);
        evidence.vote(now, net(1), 1, NO);
        evidence.vote(now, net(2), 2, NO);
        evidence.prove(now);
        assert_eq!(evidence.state(), AddressState::Reachable);
        evidence.vote(now, net(3), 3, NO);
        assert_eq!(evidence.state(), AddressState::Reachable, "one liar");
        evidence.vote(now, net(4), 4, NO);
        assert_eq!(evidence.state(), AddressState::Unreachable);
    }

    #[test]
    fn evidence_goes_out_of_date() {
        let now = Instant::now();
        let mut evidence = Evidence::new(now, Origin::Seen);
        evidence.prove(now);
        evidence.vote(now + CONFIRMED_PAUSE, net(1), 1, ALONE);
        assert_eq!(evidence.due, now + 2 * CONFIRMED_PAUSE);
        evidence.expire(evidence.next_expiry().unwrap());
        assert_eq!(evidence.state(), AddressState::Candidate);
        evidence.expire(evidence.next_expiry().unwrap());
        assert_eq!(evidence.next_expiry(), None);
    }

    #[test]
    fn who_has_many_networks_fills_no_memory() {
        let now = Instant::now();
        let mut evidence = Evidence::new(now, OWN);
        for n in 0..200 {
            evidence.vote(now + Duration::from_secs(u64::try_from(n).unwrap()), net(n), n, NO);
        }
        assert_eq!(evidence.len(), MAX_VOTES);
        assert!(evidence.has_vote_of(net(199)) && !evidence.has_vote_of(net(0)));
    }
}
