//! `bench`: our node and the JavaScript peers side by side on one generated corpus.
//!
//! Each part prepares a folder with the corpus for every kind of peer (kept beside the corpus), then measures
//! all kinds in turn, as often as there are runs, so that what the machine does meanwhile falls on all of them
//! alike. What is printed are medians. All peers run on one host of the lab and talk over its loopback.

mod blobs;
mod conns;
mod figures;
mod history;
mod import;
mod load;
mod machine;
mod private;
mod publish;
mod query;
mod start;
mod subject;
mod sync;

use std::path::PathBuf;

use hawsepipe_tests::generated::Generated;
use hawsepipe_tests::lab::{Host, Lab};

use self::figures::Figures;
use self::subject::Kind;
use super::say;

/// What can be typed.
pub(super) const OPTIONS: &str = "         all                     everything below, in one table
         sync                    an empty peer takes the corpus by EBT: rate, first screen, memory, disk
         history                 500 feeds by createHistoryStream, 20 at a time
         publish                 over the socket, one at a time and many at once, and what an fdatasync takes
         start                   until the first answer, with the indexes and without them
         query                   what clients ask most: get, hops, the newest, one author, contacts, the whole log
         conns                   300 strangers connect and stay; of our node also sessions by the thousand, idle and with
                                 EBT, floods of handshakes, and scrapes
         private                 trial decryption of as many private messages, a tenth of them for the reader
         import                  `hawsepipe import` of a ~/.ssb of ssb-server
         blobs                   blobs of 5 MB added and read over SHS, beside the box stream alone; ten thousand wants
         --messages N            how many the corpus has, 100000 unless told otherwise
         --sessions N            with EBT at a time in conns, 1000 unless told otherwise, and ten times as many idle ones
         --runs N                how often each is measured, 5 unless told otherwise
         --peers KIND,...        of ours, classic (ssb-server 16), db2 (what Manyverse is built from); all of them
                                 unless told otherwise, and ours alone with more than 200000 messages";

const MESSAGES: usize = 100_000;
const RUNS: usize = 5;
const SESSIONS: usize = 1000;

/// JavaScript peers take hours beyond.
const MOST_FOR_JS: usize = 200_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Sync,
    History,
    Publish,
    Start,
    Query,
    Conns,
    Private,
    Import,
    Blobs,
}

impl Part {
    const ALL: [Self; 9] = [
        Self::Sync,
        Self::History,
        Self::Publish,
        Self::Start,
        Self::Query,
        Self::Conns,
        Self::Private,
        Self::Import,
        Self::Blobs,
    ];

    fn read(name: &str) -> Result<Vec<Self>, String> {
        let part = match name {
            "all" => return Ok(Self::ALL.to_vec()),
            "sync" => Self::Sync,
            "history" => Self::History,
            "publish" => Self::Publish,
            "start" => Self::Start,
            "query" => Self::Query,
            "conns" => Self::Conns,
            "private" => Self::Private,
            "import" => Self::Import,
            "blobs" => Self::Blobs,
            _ => return Err(format!("bench cannot measure {name}")),
        };
        Ok(vec![part])
    }
}

/// What to measure.
pub(super) struct Plan {
    parts: Vec<Part>,
    messages: usize,
    sessions: usize,
    runs: usize,
    peers: Vec<Kind>,
}

impl Plan {
    pub(super) fn read(options: &[String]) -> Result<Self, String> {
        let (name, options) = options.split_first().ok_or("bench needs to know what to measure")?;
        let (mut messages, mut sessions, mut runs, mut peers) = (MESSAGES, SESSIONS, RUNS, None);
        for option in options.chunks(2) {
            let [name, value] = option else { return Err(format!("{} needs a value", option[0])) };
            let number = || value.parse::<usize>().map_err(|e| format!("{value}: {e}"));
            match name.as_str() {
                "--messages" => messages = number()?,
                "--sessions" => sessions = number()?,
                "--runs" => runs = number()?,
                "--peers" => peers = Some(value.split(',').map(Kind::read).collect::<Result<_, _>>()?),
                _ => return Err(format!("bench does not know {name}")),
            }
        }
        let usual = if messages > MOST_FOR_JS { &Kind::ALL[..1] } else { &Kind::ALL[..] };
        let peers = peers.unwrap_or_else(|| usual.to_vec());
        Ok(Self { parts: Part::read(name)?, messages, sessions, runs, peers })
    }
}

/// What every part needs.
struct Bench {
    corpus: Generated,
    host: Host,
    sessions: usize,
    runs: usize,
    peers: Vec<Kind>,
}

impl Bench {
    /// A folder with the corpus and an identity that nobody in it knows, for one kind of peer.
    fn source(&self, kind: Kind) -> PathBuf {
        self.host.dir().join(format!("source-{}", kind.name()))
    }

    /// Measures every kind in turn, as often as there are runs.
    fn interleave(&self, mut measure: impl FnMut(Kind, usize)) {
        for round in 0..self.runs {
            for kind in &self.peers {
                measure(*kind, round);
            }
        }
    }
}

/// Measures and prints.
pub(super) fn run(lab: &mut Lab, plan: &Plan) {
    let corpus = Generated::load(plan.messages);
    let host = lab.host("bench");
    let bench = Bench { corpus, host, sessions: plan.sessions, runs: plan.runs, peers: plan.peers.clone() };
    // Private messages are made for the purpose, and tried without any node.
    if plan.parts.iter().any(|part| *part != Part::Private) {
        bench.peers.iter().for_each(|kind| subject::prepare(&bench, *kind));
    }
    let mut figures = Figures::default();
    for part in &plan.parts {
        match part {
            Part::Sync => sync::measure(&bench, &mut figures),
            Part::History => history::measure(&bench, &mut figures),
            Part::Publish => publish::measure(&bench, &mut figures),
            Part::Start => start::measure(&bench, &mut figures),
            Part::Query => query::measure(&bench, &mut figures),
            Part::Conns => conns::measure(&bench, &mut figures),
            Part::Private => private::measure(&bench, plan.messages, &mut figures),
            Part::Import => import::measure(&bench, &mut figures),
            Part::Blobs => blobs::measure(&bench, &mut figures),
        }
    }
    say(machine::describe(&bench));
    say(figures.table(&bench.peers));
    say(figures.verdicts(&bench.peers));
}
