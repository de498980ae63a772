//! The machine that weighs it all.
//!
//! An address of an interface that is global in IPv4 is held for reachable until a server finds that it is
//! not, because a new pub must relay for its first client. All others need proof: firewalls are the rule
//! in IPv6, and behind a NAT a server's success says little if we had sent to that server before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::contacts::Contacts;
use super::evidence::{Evidence, Finding, Origin};
use super::observations::Observations;
use super::{
    AddressPolicy, AddressState, Family, FamilyReport, Filtering, Nat, Report, Target, Transport, Verdict,
};

mod links;
mod local;
#[cfg(test)]
mod tests;

pub(crate) use links::Link;
use links::{LIAR_PAUSE, Links, REFUSED_PAUSE, SERVER_PAUSE};
use local::Local;

/// Most addresses of our own that are looked into. When full, others have to wait; our interfaces' come
/// first.
pub(crate) const MAX_TARGETS: usize = 24;
/// Most questions to servers at a time.
pub(crate) const MAX_PROBING: usize = 2;
/// How long an answer may take: data sent, dial and dial-back included.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(45);
/// Most addresses told to a peer for hole punching.
pub(crate) const MAX_CANDIDATES: usize = 8;
/// Of those that others see, per transport and IP version.
const MAX_SEEN: usize = 2;
/// Between two occasions on which the outside world can make us ask before time.
const HASTE_PAUSE: Duration = Duration::from_secs(60);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input<L, P> {
    /// These are our interfaces' addresses, and on these sockets we listen.
    Local { interfaces: Vec<IpAddr>, listening: Vec<Target> },
    /// We send to these hosts, whatever comes of it.
    Dialling { peer: Option<P>, hosts: Vec<(Transport, IpAddr)> },
    /// QUIC to this host did not come through.
    QuicFailed(IpAddr),
    /// A direct connection stands.
    Linked { id: L, link: Link<P> },
    /// It does not any more.
    Unlinked { id: L },
    /// The other end says where it sees us, and whether it dials back.
    Identified { id: L, seen: Option<Target>, serves: bool },
    /// What came of [`Output::Probe`].
    Probed { id: L, target: Target, answer: Answer },
}

/// What a server made of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It dialled back. `independent`: from where we had not sent to.
    Reached { independent: bool },
    /// It tried and could not.
    NotReached,
    /// It did not try.
    Refused,
    /// Nothing of use.
    Silent,
    /// It says that it reached us, and did not.
    Lied,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output<L> {
    /// Ask the server at the other end to dial us there; answer with [`Input::Probed`].
    Probe { id: L, target: Target },
    /// Others reach us there.
    Confirmed(Target),
    /// No longer.
    Lost(Target),
    /// There is another report; what it says of relays is empty.
    Report(Box<Report>),
}

#[derive(Debug)]
struct Probing<L> {
    id: L,
    until: Instant,
    /// We had sent to the server's host by the transport that is tried.
    known: bool,
}

/// The machine. `L` names connections, `P` peers.
#[derive(Debug)]
pub(crate) struct Machine<L, P> {
    policy: AddressPolicy,
    local: Local,
    links: Links<L, P>,
    contacts: Contacts<P>,
    observations: Observations<P>,
    targets: BTreeMap<Target, Evidence<P>>,
    probing: BTreeMap<Target, Probing<L>>,
    filters: BTreeMap<(Transport, Family), Filtering>,
    hastened: Option<Instant>,
    announced: BTreeSet<Target>,
    report: Report,
    outputs: VecDeque<Output<L>>,
    wake: Option<Instant>,
}

impl<L: Ord + Copy, P: Ord + Clone> Machine<L, P> {
    /// Knows nothing yet.
    pub(crate) fn new(policy: AddressPolicy) -> Self {
        Self {
            policy,
            local: Local::default(),
            links: Links::new(),
            contacts: Contacts::new(),
            observations: Observations::new(),
            targets: BTreeMap::new(),
            probing: BTreeMap::new(),
            filters: BTreeMap::new(),
            hastened: None,
            announced: BTreeSet::new(),
            report: Report::default(),
            outputs: VecDeque::new(),
            wake: None,
        }
    }

    /// One input.
    pub(crate) fn handle(&mut self, now: Instant, input: Input<L, P>) {
        match input {
            Input::Local { interfaces, listening } => self.local_is(now, Local::new(interfaces, listening)),
            Input::Dialling { peer, hosts } => self.dialling(now, peer, &hosts),
            Input::QuicFailed(ip) => self.observations.quic_failed(now, ip),
            Input::Linked { id, link } => self.linked(now, id, link),
            Input::Unlinked { id } => self.unlinked(now, id),
            Input::Identified { id, seen, serves } => self.identified(now, id, seen, serves),
            Input::Probed { id, target, answer } => self.probed(now, id, target, answer),
        }
        self.settle(now);
    }

    /// The next output, until `None`.
    pub(crate) fn poll_output(&mut self) -> Option<Output<L>> {
        self.outputs.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    #[cfg(test)]
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.wake
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.wake.is_none_or(|wake| wake > now) {
            return;
        }
        self.contacts.expire(now);
        self.observations.expire(now);
        for evidence in self.targets.values_mut() {
            evidence.expire(now);
        }
        let overdue: Vec<_> = self.probing.iter().filter(|(_, probing)| probing.until <= now).collect();
        let overdue: Vec<_> = overdue.into_iter().map(|(target, probing)| (probing.id, *target)).collect();
        for (id, target) in overdue {
            self.probed(now, id, target, Answer::Silent);
        }
        self.links.expire(now);
        self.settle(now);
    }

    fn local_is(&mut self, now: Instant, local: Local) {
        if local == self.local {
            return;
        }
        let before = std::mem::replace(&mut self.local, local);
        for family in Family::ALL {
            if self.local.lost(&before, family) {
                self.observations.forget(family);
                self.filters.retain(|(_, of), _| *of != family);
                self.targets.retain(|target, _| Family::of(target.at.ip()) != family);
            }
        }
        for evidence in self.targets.values_mut() {
            evidence.due = now;
        }
    }

    fn dialling(&mut self, now: Instant, peer: Option<P>, hosts: &[(Transport, IpAddr)]) {
        for (transport, ip) in hosts {
            self.contacts.add_host(now, *transport, *ip);
        }
        if let Some(peer) = peer {
            self.contacts.add_peer(now, &peer);
        }
    }

    fn linked(&mut self, now: Instant, id: L, link: Link<P>) {
        let stranger = link.ip().filter(|ip| link.inbound && self.is_stranger(*ip));
        let novel = stranger.is_some_and(|ip| !self.knows(now, link.transport, ip));
        let never_met = stranger.is_some_and(|ip| {
            Transport::ALL.into_iter().all(|transport| !self.knows(now, transport, ip))
                && !self.contacts.knows_peer(now, &link.peer)
        });
        if never_met {
            self.came_in(now, &link);
        }
        if let Some(ip) = link.ip() {
            self.contacts.add_host(now, link.transport, ip);
        }
        if !link.inbound {
            self.contacts.add_peer(now, &link.peer);
        }
        self.links.insert(id, link, novel);
    }

    /// Somebody whom we never sent to reached us: which address that was must be plain to be a proof.
    fn came_in(&mut self, now: Instant, link: &Link<P>) {
        let Some(ip) = link.ip() else { return };
        let way = (link.transport, Family::of(ip));
        let here = link.local.map(|at| Target { transport: link.transport, at });
        let exact = here.filter(|target| self.targets.contains_key(target));
        let all = || self.targets.keys().filter(|target| way_of(target) == way).copied();
        let only = all().next().filter(|_| all().count() == 1);
        let haste = self.hastened.is_none_or(|at| now.saturating_duration_since(at) >= HASTE_PAUSE);
        if let Some(target) = exact.or(only) {
            if let Some(evidence) = self.targets.get_mut(&target) {
                evidence.prove(now);
            }
            self.filters.insert(way, Filtering::Open);
        } else if haste {
            self.hastened = Some(now);
            let unknown = |evidence: &&mut Evidence<P>| evidence.state() != AddressState::Reachable;
            let these = self.targets.iter_mut().filter(|(target, _)| way_of(target) == way);
            these.map(|(_, evidence)| evidence).filter(unknown).for_each(|evidence| evidence.due = now);
        }
    }

    fn unlinked(&mut self, now: Instant, id: L) {
        let Some(link) = self.links.remove(id) else { return };
        if let Some(ip) = link.ip() {
            self.contacts.add_host(now, link.transport, ip);
        }
        self.probing.retain(|_, probing| probing.id != id);
    }

    fn identified(&mut self, now: Instant, id: L, seen: Option<Target>, serves: bool) {
        self.links.set_serving(id, serves);
        let other_port = self.links.may_have_other_port(id);
        let Some(link) = self.links.find(id) else { return };
        let believable = |seen: &Target| seen.transport == link.transport && !other_port;
        // Whom we meet on a local network, or behind the same NAT, sees us as nobody else does.
        let outside = link.ip().is_none_or(|ip| self.is_stranger(ip));
        let ours = |ip: IpAddr| self.local.interfaces.contains(&ip) || self.policy.is_global(ip);
        if let Some(seen) = seen.filter(|seen| believable(seen) && outside && ours(seen.at.ip())) {
            self.observations.add(now, link.observer(), seen);
        }
    }

    fn probed(&mut self, now: Instant, id: L, target: Target, answer: Answer) {
        let Some(probing) = self.probing.remove(&target) else { return };
        if probing.id != id {
            self.probing.insert(target, probing);
            return;
        }
        let Some(link) = self.links.find(id) else { return };
        let (peer, net) = (link.peer.clone(), link.net());
        let (finding, pause) = match answer {
            Answer::Reached { independent } => (Some(Finding::Reached { independent }), SERVER_PAUSE),
            Answer::NotReached => (Some(Finding::NotReached), SERVER_PAUSE),
            Answer::Refused | Answer::Silent => (None, REFUSED_PAUSE),
            Answer::Lied => (None, LIAR_PAUSE),
        };
        self.links.pause(now, &peer, pause);
        if answer == Answer::Lied {
            for evidence in self.targets.values_mut() {
                evidence.discredit(&peer);
            }
        }
        let Some(finding) = finding else { return };
        self.learn_filtering(target, finding, probing.known);
        if let Some(evidence) = self.targets.get_mut(&target) {
            evidence.vote(now, net, peer, finding);
        }
    }

    /// What an answer says of who gets through.
    fn learn_filtering(&mut self, target: Target, finding: Finding, known: bool) {
        let way = way_of(&target);
        let now_holds = self.filters.get(&way).copied().unwrap_or_default();
        let guessed = self.targets.get(&target).is_some_and(|evidence| evidence.origin == Origin::Guessed);
        // Where every destination has a port of its own, nobody else could get through to it.
        let own_port_each = matches!(self.nat(way), Nat::Sequential | Nat::Random);
        let learnt = match (finding, known) {
            (Finding::Reached { independent: true }, _) => Filtering::Open,
            (Finding::Reached { independent: false }, _) if now_holds == Filtering::Open => return,
            (Finding::Reached { independent: false }, _) => Filtering::AddressOrOpen,
            (Finding::NotReached, true) if !guessed && !own_port_each => Filtering::AddressAndPort,
            (Finding::NotReached, _) if now_holds == Filtering::Open => Filtering::Unknown,
            (Finding::NotReached, _) => return,
        };
        self.filters.insert(way, learnt);
    }

    /// Draws the consequences.
    fn settle(&mut self, now: Instant) {
        self.derive(now);
        self.ask(now);
        self.announce();
        self.wake = self.next_wake(now);
    }

    /// Which addresses there are to look into. One that was reached stays, although nobody sees us there at
    /// the moment, unless they see us elsewhere.
    fn derive(&mut self, now: Instant) {
        let wanted = self.wanted();
        let public = self.public_ips();
        let observations = &self.observations;
        let holds = |target: &Target, evidence: &Evidence<P>| {
            let own = matches!(evidence.origin, Origin::Own { .. });
            let elsewhere = observations.has(Family::of(target.at.ip())) && !public.contains(&target.at.ip());
            evidence.state() == AddressState::Reachable && !own && !elsewhere
        };
        self.targets.retain(|target, evidence| wanted.contains_key(target) || holds(target, evidence));
        self.probing.retain(|target, _| self.targets.contains_key(target));
        for (target, origin) in wanted {
            if let Some(evidence) = self.targets.get_mut(&target) {
                evidence.origin = origin;
            } else if self.targets.len() < MAX_TARGETS {
                self.targets.insert(target, Evidence::new(now, origin));
            }
        }
    }

    fn wanted(&self) -> BTreeMap<Target, Origin> {
        let mut wanted = BTreeMap::new();
        for way in ways() {
            let (transport, _) = way;
            let translated = self.observations.seen(way, &self.local.interfaces);
            let per_peer = matches!(self.nat(way), Nat::Sequential | Nat::Random);
            let guess = translated.first().zip(self.local.port(way));
            let guess = guess.map(|(at, port)| SocketAddr::new(at.ip(), port));
            wanted.extend(guess.map(|at| (Target { transport, at }, Origin::Guessed)));
            let seen = translated.into_iter().take(if per_peer { 0 } else { MAX_SEEN });
            wanted.extend(seen.map(|at| (Target { transport, at }, Origin::Seen)));
        }
        let own: Vec<_> = self.own_global().collect();
        let has_v4 = own.iter().any(|target| target.at.is_ipv4());
        let origin = Origin::Own { presumed: has_v4 };
        // Leaves room for what others see, which is at most three addresses a way.
        wanted.extend(own.into_iter().take(MAX_TARGETS / 2).map(|target| (target, origin)));
        wanted
    }

    fn ask(&mut self, now: Instant) {
        while self.probing.len() < MAX_PROBING {
            let Some((id, target)) = self.next_probe(now) else { return };
            let Some(link) = self.links.find(id) else { return };
            let known = link.ip().is_none_or(|ip| self.knows(now, target.transport, ip));
            let (peer, until) = (link.peer.clone(), now + PROBE_TIMEOUT);
            self.links.use_server(now, &peer, until);
            self.probing.insert(target, Probing { id, until, known });
            self.outputs.push_back(Output::Probe { id, target });
        }
    }

    /// Our own addresses first: with one of them there is nothing else to look for.
    fn next_probe(&self, now: Instant) -> Option<(L, Target)> {
        let is_own = |evidence: &Evidence<P>| matches!(evidence.origin, Origin::Own { .. });
        let idle = || self.targets.iter().filter(|(target, _)| !self.probing.contains_key(target));
        let own = idle().filter(|(_, evidence)| is_own(evidence));
        let others = idle().filter(|(_, evidence)| !is_own(evidence));
        own.chain(others)
            .find_map(|(target, evidence)| self.choose(now, *target, evidence).map(|id| (id, *target)))
    }

    /// Whom to ask about an address: who has not been heard on it yet, then, behind a NAT, whose success
    /// would mean the most, then who was not asked for the longest time.
    fn choose(&self, now: Instant, target: Target, evidence: &Evidence<P>) -> Option<L> {
        let overdue = evidence.due <= now;
        let public = self.public_ips();
        let family = Family::of(target.at.ip());
        let heard = |link: &Link<P>| evidence.has_vote_of(link.net());
        let fits = |link: &Link<P>| {
            let outside = link.ip().is_none_or(|ip| self.policy.is_stranger(ip, &public));
            link.could_be(family) && outside && (overdue || (!evidence.is_settled() && !heard(link)))
        };
        let servers = self.links.servers(now).filter(|(_, link, _)| fits(link));
        let best = servers.min_by_key(|(id, link, used)| {
            let known = link.ip().is_none_or(|ip| self.knows(now, target.transport, ip));
            (heard(link), known, *used, *id)
        });
        best.map(|(id, ..)| id)
    }

    fn announce(&mut self) {
        let reachable =
            self.targets.iter().filter(|(_, evidence)| evidence.state() == AddressState::Reachable);
        let reachable: BTreeSet<_> = reachable.map(|(target, _)| *target).collect();
        let before = std::mem::replace(&mut self.announced, reachable.clone());
        self.outputs.extend(before.difference(&reachable).map(|target| Output::Lost(*target)));
        self.outputs.extend(reachable.difference(&before).map(|target| Output::Confirmed(*target)));
        let report = self.make_report();
        if report != self.report {
            self.report = report.clone();
            self.outputs.push_back(Output::Report(Box::new(report)));
        }
    }

    fn make_report(&self) -> Report {
        let addresses = self.targets.iter().map(|(target, evidence)| (target.to_string(), evidence.state()));
        Report {
            verdict: self.verdict(),
            v4: self.family_report(Family::V4),
            v6: self.family_report(Family::V6),
            addresses: addresses.collect(),
            ..Report::default()
        }
    }

    fn verdict(&self) -> Verdict {
        let any = |state| self.targets.values().any(|evidence| evidence.state() == state);
        let translated = |way| !matches!(self.nat(way), Nat::Unknown | Nat::Untranslated);
        if any(AddressState::Reachable) {
            Verdict::Public
        } else if any(AddressState::Unreachable) || ways().any(translated) {
            Verdict::Private
        } else {
            Verdict::Unknown
        }
    }

    fn family_report(&self, family: Family) -> FamilyReport {
        let filter = |transport| self.filters.get(&(transport, family)).copied().unwrap_or_default();
        let udp = filter(Transport::Quic);
        let filtering = if udp == Filtering::Unknown { filter(Transport::Tcp) } else { udp };
        let nat = |transport| self.nat((transport, family));
        FamilyReport { udp: nat(Transport::Quic), tcp: nat(Transport::Tcp), filtering }
    }

    fn next_wake(&self, now: Instant) -> Option<Instant> {
        let dues = self.targets.values().map(|evidence| evidence.due);
        let expiries = self.targets.values().filter_map(Evidence::next_expiry);
        let probes = self.probing.values().map(|probing| probing.until);
        let all = dues.chain(expiries).chain(probes).chain(self.observations.next_expiry());
        all.filter(|at| *at > now).chain(self.links.next_ready(now)).min()
    }

    fn nat(&self, way: (Transport, Family)) -> Nat {
        self.observations.classify(way, &self.local.interfaces, self.local.port(way))
    }

    fn knows(&self, now: Instant, transport: Transport, ip: IpAddr) -> bool {
        self.contacts.knows_host(now, transport, ip) || self.links.lead_to(transport, ip)
    }

    fn is_stranger(&self, ip: IpAddr) -> bool {
        self.policy.is_stranger(ip, &self.public_ips())
    }

    fn own_global(&self) -> impl Iterator<Item = Target> {
        self.local.targets().into_iter().filter(|target| self.policy.is_global(target.at.ip()))
    }

    /// Whether this connection came in from a host that we had not sent to before.
    pub(crate) fn is_independent(&self, id: L) -> bool {
        self.links.is_novel(id)
    }

    /// Whether servers have said enough of an address.
    #[cfg(test)]
    pub(crate) fn is_settled(&self, target: Target) -> bool {
        self.targets.get(&target).is_some_and(Evidence::is_settled)
    }

    /// Where a peer could try to reach us from the outside at this moment, as seen and not as guessed: for
    /// hole punching. Known to be reachable first, then IPv6, then QUIC.
    pub(crate) fn candidates(&self) -> Vec<(Transport, SocketAddr)> {
        let state = |target: &Target| self.targets.get(target).map(Evidence::state);
        let doubted = |target: &Target| state(target) != Some(AddressState::Reachable);
        let mut all: Vec<_> = self.own_global().collect();
        for (transport, family) in ways() {
            let seen = self.observations.seen((transport, family), &self.local.interfaces);
            all.extend(seen.into_iter().take(MAX_SEEN).map(|at| Target { transport, at }));
        }
        for family in Family::ALL {
            all.extend(self.unseen_tcp(family));
        }
        all.extend(self.announced.iter().copied());
        all.retain(|target| self.policy.is_global(target.at.ip()));
        // Stable, so that of those seen the ones that most see stay in front.
        all.sort_by_key(|target| (doubted(target), target.at.is_ipv4(), target.transport));
        let mut told = BTreeSet::new();
        all.retain(|target| told.insert(*target));
        all.into_iter().take(MAX_CANDIDATES).map(|target| (target.transport, target.at)).collect()
    }

    /// Where TCP would be seen if anybody were connected by it: most NATs keep the port. The other way
    /// round it would be a worse guess, because where TCP was needed UDP may be blocked.
    fn unseen_tcp(&self, family: Family) -> Option<Target> {
        let seen = |transport| self.observations.seen((transport, family), &self.local.interfaces);
        if !seen(Transport::Tcp).is_empty() {
            return None;
        }
        let ip = seen(Transport::Quic).first()?.ip();
        let port = self.local.port((Transport::Tcp, family))?;
        Some(Target { transport: Transport::Tcp, at: SocketAddr::new(ip, port) })
    }

    /// Whether others reach us at an address of an interface of ours, as far as we know or presume.
    pub(crate) fn is_own_address_reachable(&self) -> bool {
        let state = |target| self.targets.get(&target).map(Evidence::state);
        self.own_global().any(|target| state(target) == Some(AddressState::Reachable))
    }

    /// Whether somebody has reached us at an address of an interface of ours, rather than that it is
    /// presumed.
    pub(crate) fn is_own_address_proven(&self) -> bool {
        let proven = |target| {
            let evidence = self.targets.get(&target);
            evidence.is_some_and(|e| e.state() == AddressState::Reachable && e.is_settled())
        };
        self.own_global().any(proven)
    }

    /// Where a peer on a local network of ours could reach us.
    pub(crate) fn lan_candidates(&self) -> Vec<(Transport, SocketAddr)> {
        let all = self.local.on_lan().take(MAX_CANDIDATES);
        all.map(|target| (target.transport, target.at)).collect()
    }

    /// The addresses that we have on the Internet, our interfaces' and those that others see.
    pub(crate) fn public_ips(&self) -> Vec<IpAddr> {
        let own = self.local.interfaces.iter().copied().filter(|ip| self.policy.is_global(*ip));
        let seen = ways().flat_map(|way| self.observations.seen(way, &self.local.interfaces));
        let mut all: Vec<_> = own.collect();
        for ip in seen.map(|at| at.ip()) {
            if !all.contains(&ip) {
                all.push(ip);
            }
        }
        all.truncate(MAX_CANDIDATES);
        all
    }
}

fn ways() -> impl Iterator<Item = (Transport, Family)> {
    let of = |family| Transport::ALL.into_iter().map(move |transport| (transport, family));
    Family::ALL.into_iter().rev().flat_map(of)
}

fn way_of(target: &Target) -> (Transport, Family) {
    (target.transport, Family::of(target.at.ip()))
}
