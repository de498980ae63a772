//! `matrix`: who comes to talk directly to whom, and how long it takes.
//!
//! A try is three fresh nodes and routers that remember nothing: a public relay, a listener with a reservation
//! there, and a dialer with a session there, 20 ms one way between any two of them. The clock starts when
//! the dialer dials the listener's circuit address. A try is direct when both ends have a session with the
//! other that no relay carries.

use std::collections::BTreeMap;
use std::time::Duration;

use hawsepipe_tests::lab::Lab;
use hawsepipe_tests::lab::internet::Place;
use hawsepipe_tests::lab::nat::Nat;
use hawsepipe_tests::lab::probe::{Filtering, Mapping};
use hawsepipe_tests::meeting::{Act, Outcome, Stage, Transport, dialable};
use serde_json::json;

use super::say;

/// How often each pair meets unless told otherwise.
const TRIES: usize = 10;

/// How long a direct session is waited for where there should be one.
const PATIENCE: Duration = Duration::from_secs(15);

/// The same where there should be none, and something would have to be wrong with the laboratory.
const IMPATIENCE: Duration = Duration::from_secs(4);

/// The share of packets that each line of a lossy way loses: two lines, hence 5 % from end to end.
const LOSS: f64 = 0.025;

/// The places that stock libp2p and iroh were measured in, all ordered pairs of which are measured.
const SQUARE: [Place; 6] = [
    Place::Public,
    Place::FullCone,
    Place::AddressRestricted,
    Place::PortRestricted,
    Place::SymmetricRandom,
    Place::DoubleNat,
];

/// What is measured beside the square.
const MORE: &str = "port-shifting:port-shifting,port-shifting:port-restricted,port-restricted:port-shifting,\
    port-restricted-open-input:port-restricted-open-input,port-restricted-open-input:port-restricted,\
    symmetric-sequential:port-restricted,symmetric-random:port-shifting,\
    double-nat-symmetric:address-restricted,firewall:firewall,firewall:port-restricted,\
    ipv6-firewall:ipv6-firewall,ipv6-firewall:port-restricted,udp-blocked:port-restricted,\
    same-lan:port-restricted,same-lan-address:port-restricted,\
    same-carrier:hairpinning,same-carrier:port-restricted,lossy-port-restricted:port-restricted,\
    lossy-double-nat:address-restricted";

/// What can be typed.
pub(super) const OPTIONS: &str = "         --udp-blocked           no UDP to and from the two
         --transport tcp|quic    they have only this one
         --pairs LISTENER:DIALER,...  these instead of all; same-lan:PLACE for both in one LAN,
                                 same-lan-address:PLACE to dial the LAN address there,
                                 same-carrier:PLACE for two homes behind one carrier like this,
                                 lossy-LISTENER:DIALER with 5 % of all packets lost.
                                 A place is the first in `-- nat` that begins so
         --json                  a JSON object for each pair as well";

/// What to measure.
pub(super) struct Plan {
    tries: usize,
    act: Act,
    udp_blocked: bool,
    pairs: Vec<Pair>,
    json: bool,
}

impl Plan {
    pub(super) fn read(options: &[String]) -> Result<Self, String> {
        let mut plan =
            Self { tries: TRIES, act: Act::PLAIN, udp_blocked: false, pairs: Vec::new(), json: false };
        let mut options = options.iter();
        while let Some(option) = options.next() {
            let mut value = || options.next().ok_or_else(|| format!("{option} needs a value"));
            match option.as_str() {
                "--udp-blocked" => (plan.act, plan.udp_blocked) = (Act::WITHOUT_UDP, true),
                "--transport" => plan.act = Act::only(transport(value()?)?),
                "--pairs" => plan.pairs = value()?.split(',').map(Pair::read).collect::<Result<_, _>>()?,
                "--json" => plan.json = true,
                tries => plan.tries = tries.parse().map_err(|e| format!("{tries}: {e}"))?,
            }
        }
        if plan.pairs.is_empty() {
            let square = SQUARE
                .into_iter()
                .flat_map(|listener| SQUARE.map(|dialer| Pair { scene: Scene::Homes, listener, dialer }));
            plan.pairs.extend(square);
            for pair in MORE.split(',') {
                plan.pairs.push(Pair::read(pair)?);
            }
        }
        Ok(plan)
    }
}

fn transport(name: &str) -> Result<Transport, String> {
    [Transport::Quic, Transport::Tcp]
        .into_iter()
        .find(|transport| transport.name() == name)
        .ok_or_else(|| format!("no transport is called {name}"))
}

/// Where a listener and a dialer are.
#[derive(Clone, Copy)]
struct Pair {
    scene: Scene,
    listener: Place,
    dialer: Place,
}

#[derive(Clone, Copy, PartialEq)]
enum Scene {
    /// In homes of their own.
    Homes,
    /// The same, on lines that lose packets.
    Lossy,
    /// In one home.
    OneLan,
    /// In two homes behind one carrier.
    OneCarrier,
    /// In one home, and the LAN address is known and dialled.
    OneLanAddress,
}

impl Pair {
    fn read(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':').ok_or_else(|| format!("{text} is no pair LISTENER:DIALER"))?;
        let (scene, listener, dialer) = match parts {
            ("same-lan", home) => (Scene::OneLan, home, home),
            ("same-lan-address", home) => (Scene::OneLanAddress, home, home),
            ("same-carrier", carrier) => (Scene::OneCarrier, carrier, carrier),
            (listener, dialer) => match listener.strip_prefix("lossy-") {
                Some(listener) => (Scene::Lossy, listener, dialer),
                None => (Scene::Homes, listener, dialer),
            },
        };
        Ok(Self { scene, listener: place(listener)?, dialer: place(dialer)? })
    }

    fn label(&self) -> [String; 2] {
        let (listener, dialer) = (self.listener.name(), self.dialer.name());
        match self.scene {
            Scene::Homes => [listener.to_owned(), dialer.to_owned()],
            Scene::Lossy => [format!("{listener}, 5 % loss"), dialer.to_owned()],
            Scene::OneLan => [listener.to_owned(), "in the same LAN".to_owned()],
            Scene::OneCarrier => [listener.to_owned(), "behind the same carrier".to_owned()],
            Scene::OneLanAddress => [listener.to_owned(), "in the same LAN, by LAN address".to_owned()],
        }
    }

    /// Whether there is a way without a relay. Only one thing is in the way of all: packets leave one NAT
    /// by a port that nobody knows, and the other lets in only known ones.
    fn has_direct_path(&self, udp: bool) -> bool {
        match self.scene {
            Scene::OneLan | Scene::OneLanAddress => return true,
            Scene::OneCarrier => return self.carrier().hairpin,
            Scene::Homes | Scene::Lossy => {}
        }
        let [(listener, admits_dialer), (dialer, admits_listener)] =
            [self.listener, self.dialer].map(|place| behaviour(place, udp));
        let symmetric = |mapping| mapping == Mapping::AddressAndPortDependent;
        let strict = |filtering| filtering == Filtering::AddressAndPortDependent;
        !(symmetric(listener) && strict(admits_listener) || symmetric(dialer) && strict(admits_dialer))
    }

    fn stage(&self, lab: &Lab) -> Stage {
        match self.scene {
            Scene::Homes | Scene::Lossy => Stage::of(lab, self.listener, self.dialer),
            Scene::OneLan | Scene::OneLanAddress => Stage::in_one_lan(lab, self.listener),
            Scene::OneCarrier => Stage::behind_one_carrier(lab, self.carrier()),
        }
    }

    fn carrier(&self) -> Nat {
        self.listener.nats().first().copied().unwrap_or(Nat::PORT_RESTRICTED)
    }
}

fn behaviour(place: Place, udp: bool) -> (Mapping, Filtering) {
    let expected = place.expected();
    let by_udp = expected.udp.filter(|_| udp).map(|udp| (udp.mapping, udp.filtering));
    let by_tcp = expected.tcp.map(|tcp| (tcp.mapping, tcp.filtering));
    by_udp.or(by_tcp).unwrap_or((Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent))
}

fn place(text: &str) -> Result<Place, String> {
    let exact = Place::ALL.into_iter().find(|place| place.name() == text);
    let short = || Place::ALL.into_iter().find(|place| place.name().starts_with(text));
    exact.or_else(short).ok_or_else(|| format!("no place is called {text}"))
}

/// All tries of one pair.
struct Row {
    pair: Pair,
    direct_expected: bool,
    outcomes: Vec<Outcome>,
}

/// Measures and prints.
pub(super) fn run(lab: &Lab, plan: &Plan) {
    say("| listener | dialer | sessions | ms to session | direct | ms to direct | path |");
    say("|---|---|---|---|---|---|---|");
    let rows: Vec<Row> = plan.pairs.iter().map(|pair| measure(lab, plan, *pair)).collect();
    summarise(&rows);
}

fn measure(lab: &Lab, plan: &Plan, pair: Pair) -> Row {
    let stage = pair.stage(lab);
    if plan.udp_blocked {
        stage.block_udp();
    }
    let both_have_udp = pair.listener != Place::UdpBlocked && pair.dialer != Place::UdpBlocked;
    let udp = both_have_udp && !plan.udp_blocked && plan.act.only != Some(Transport::Tcp);
    let act = Act { to_relay: if both_have_udp { plan.act.to_relay } else { Transport::Tcp }, ..plan.act };
    let direct_expected = pair.has_direct_path(udp);
    let outcomes = (0..plan.tries).map(|number| {
        stage.forget();
        if pair.scene == Scene::Lossy {
            stage.lose(LOSS, number as u64 + 1);
        }
        attempt(&stage, &act, pair, if direct_expected { PATIENCE } else { IMPATIENCE })
    });
    let row = Row { pair, direct_expected, outcomes: outcomes.collect() };
    row.print(plan.json);
    row
}

fn attempt(stage: &Stage, act: &Act, pair: Pair, patience: Duration) -> Outcome {
    let meeting = match stage.raise(act) {
        Ok(meeting) => meeting,
        Err(why) => return Outcome { carrier: why, ..Outcome::default() },
    };
    let lan_address = meeting.listener.libp2p_at(act.only.unwrap_or(Transport::Quic));
    let outcome = match (pair.scene, lan_address) {
        (Scene::OneLanAddress, Some(at)) => meeting.dial_at(&dialable(&meeting.listener, &at), patience),
        (Scene::Homes | Scene::Lossy | Scene::OneLan | Scene::OneCarrier | Scene::OneLanAddress, _) => {
            meeting.dial(patience)
        }
    };
    meeting.strike();
    outcome
}

impl Row {
    fn sessions(&self) -> Vec<Duration> {
        self.outcomes.iter().filter_map(|outcome| outcome.session).collect()
    }

    fn direct(&self) -> Vec<Duration> {
        self.outcomes.iter().filter_map(|outcome| outcome.direct).collect()
    }

    /// What carried how many of the sessions.
    fn paths(&self) -> String {
        let mut counts = BTreeMap::<&str, usize>::new();
        for outcome in &self.outcomes {
            *counts.entry(&outcome.carrier).or_default() += 1;
        }
        let all: Vec<String> = counts
            .into_iter()
            .map(
                |(path, count)| {
                    if count == self.outcomes.len() { path.to_owned() } else { format!("{count} {path}") }
                },
            )
            .collect();
        all.join(", ")
    }

    fn print(&self, as_json: bool) {
        let [listener, dialer] = self.pair.label();
        let (sessions, direct, tries) = (self.sessions(), self.direct(), self.outcomes.len());
        let mark = if self.direct_expected { "" } else { " (no way)" };
        say(format_args!(
            "| {listener} | {dialer} | {}/{tries} | {} | {}/{tries}{mark} | {} | {} |",
            sessions.len(),
            spread(sessions.clone()),
            direct.len(),
            spread(direct.clone()),
            self.paths(),
        ));
        if as_json {
            let millis = |times: Vec<Duration>| times.iter().map(Duration::as_millis).collect::<Vec<_>>();
            say(json!({
                "listener": listener, "dialer": dialer, "tries": tries, "direct_expected": self.direct_expected,
                "session_ms": millis(sessions), "direct_ms": millis(direct), "path": self.paths(),
            }));
        }
    }
}

fn summarise(rows: &[Row]) {
    let tries: usize = rows.iter().map(|row| row.outcomes.len()).sum();
    let sessions: Vec<Duration> = rows.iter().flat_map(Row::sessions).collect();
    let direct: Vec<Duration> = rows.iter().flat_map(Row::direct).collect();
    let expected = rows.iter().filter(|row| row.direct_expected);
    let should: usize = expected.clone().map(|row| row.outcomes.len()).sum();
    let did: usize = expected.map(|row| row.direct().len()).sum();
    let beyond = direct.len() - did;
    say(format_args!(
        "\nsessions {}/{tries}, {} ms; direct where there is a way {did}/{should}, elsewhere {beyond}/{}, {} ms",
        sessions.len(),
        spread(sessions),
        tries - should,
        spread(direct),
    ));
}

/// Median, least and most, in milliseconds.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    match (times.first(), times.get(times.len() / 2), times.last()) {
        (Some(least), Some(median), Some(most)) => {
            format!("{} ({}-{})", median.as_millis(), least.as_millis(), most.as_millis())
        }
        _ => "-".to_owned(),
    }
}
