//! `carrier`: what it costs that a session outlives its connections, and how long it stands still when it moves.
//!
//! - *moves*: two homes with two relays that follow them. The dialer takes blobs of 5 MB, one after another, and the
//!   listener publishes, while the routers forget everything again and again: each time the session falls back to a
//!   relay and comes to a direct connection anew. The gap of such a move is what the node that makes it sees: from the
//!   last byte on the old path until the new one is taken.
//! - *network*: the dialer's machine is moved into another home: until a post that was made at that moment has come.
//! - *overhead*: blobs of 5 MB between two nodes of one machine, with the carrier and without.
//! - *memory*: what a session that does nothing keeps in memory at one end, with the carrier and without.

mod memory;
mod moves;
mod overhead;

use std::process::Command;

use hawsepipe_tests::lab::Lab;

use super::say;

/// What can be typed.
pub(super) const OPTIONS: &str =
    "         moves                   from relays to direct connections while blobs and messages come
         network                 a machine that goes to another network
         overhead                throughput on one machine beside the plain protocol
         memory                  idle sessions beside those of the plain protocol
         all                     all of it
         --times N               how often, 100 moves, 10 networks or 5 transfers unless told otherwise";

/// The command by which the program measures memory in a process that does nothing else.
const MEMORY_OF: &str = "memory-of";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Moves,
    Network,
    Overhead,
    Memory,
}

/// Whether sessions are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Carried,
    Plain,
}

impl Form {
    const BOTH: [Self; 2] = [Self::Carried, Self::Plain];

    fn name(self) -> &'static str {
        match self {
            Self::Carried => "carrier",
            Self::Plain => "plain",
        }
    }

    fn is_carried(self) -> bool {
        self == Self::Carried
    }
}

/// What to measure.
pub(super) enum Plan {
    Figures {
        parts: Vec<PartName>,
        times: Option<usize>,
    },
    /// In a process of its own.
    MemoryOf(Form),
}

/// One of the parts, as it was typed.
pub(super) struct PartName(Part);

impl Plan {
    pub(super) fn read(options: &[String]) -> Result<Self, String> {
        if let [MEMORY_OF, form] = options.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            let form = Form::BOTH.into_iter().find(|known| known.name() == form);
            return form.map(Self::MemoryOf).ok_or_else(|| "no such form".to_owned());
        }
        let (name, options) = options.split_first().ok_or("carrier needs to know what to measure")?;
        let parts = match name.as_str() {
            "moves" => vec![Part::Moves],
            "network" => vec![Part::Network],
            "overhead" => vec![Part::Overhead],
            "memory" => vec![Part::Memory],
            "all" => vec![Part::Moves, Part::Network, Part::Overhead, Part::Memory],
            _ => return Err(format!("carrier cannot measure {name}")),
        };
        let times = match options {
            [] => None,
            [option, times] if option == "--times" => {
                let times = times.parse().map_err(|e| format!("{times}: {e}"))?;
                Some(times).filter(|times| *times > 0)
            }
            _ => return Err(format!("carrier does not know {}", options.join(" "))),
        };
        Ok(Self::Figures { parts: parts.into_iter().map(PartName).collect(), times })
    }
}

/// Measures and prints.
pub(super) fn run(lab: &mut Lab, plan: &Plan) {
    match plan {
        Plan::MemoryOf(form) => say(memory::bytes_of_a_session(*form)),
        Plan::Figures { parts, times } => {
            for PartName(part) in parts {
                match part {
                    Part::Moves => moves::from_relays(lab, times.unwrap_or(100)),
                    Part::Network => moves::to_other_networks(lab, times.unwrap_or(10)),
                    Part::Overhead => overhead::measure(lab, times.unwrap_or(5)),
                    Part::Memory => memory::measure(memory_of),
                }
            }
        }
    }
}

/// Bytes that one end of a session keeps, as a fresh process finds.
fn memory_of(form: Form) -> f64 {
    let program = std::env::current_exe().expect("a program knows its own path");
    let output = Command::new(program).args(["carrier", MEMORY_OF, form.name()]).output();
    let output = output.expect("the program can be started again");
    let said = String::from_utf8_lossy(&output.stdout);
    let bytes = said.trim().parse();
    bytes.unwrap_or_else(|_| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)))
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn worst(figures: &[f64]) -> f64 {
    figures.iter().copied().fold(0.0, f64::max)
}
