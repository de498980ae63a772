//! `sim [PEOPLE] [--seed N]`: the table of the schedulers, from the simulation (see `sim.rs` of the library).

use hawsepipe_tests::sim::measure::Measures;
use hawsepipe_tests::sim::network::{Disaster, Script};
use hawsepipe_tests::sim::odd::Odds;
use hawsepipe_tests::sim::world::World;
use hawsepipe_tests::sim::{self, MINUTE, Rules};

use crate::say;

/// What can be typed behind `sim`.
pub(crate) const OPTIONS: &str = "       sim options: PEOPLE (10000), --seed N (1), --odd (a quarter of the people lie, come and go, or never read)";

/// What to simulate.
pub(crate) struct Plan {
    people: usize,
    seed: u64,
    odd: bool,
}

impl Plan {
    pub(crate) fn read(options: &[String]) -> Result<Self, String> {
        let mut plan = Self { people: 10_000, seed: 1, odd: false };
        let mut options = options.iter();
        while let Some(option) = options.next() {
            let number = |text: Option<&String>| {
                let text = text.ok_or_else(|| format!("{option} needs a number"))?;
                text.parse().map_err(|_| format!("not a number: {text}"))
            };
            match option.as_str() {
                "--odd" => plan.odd = true,
                "--seed" => plan.seed = number(options.next())?,
                _ => plan.people = usize::try_from(number(Some(option))?).unwrap_or(usize::MAX),
            }
        }
        if (100..=1_000_000).contains(&plan.people) {
            Ok(plan)
        } else {
            Err("from 100 to 1000000 people".into())
        }
    }
}

/// Runs every script under all rules, and prints the table.
pub(crate) fn run(plan: &Plan) {
    const WARM: u64 = 10 * MINUTE;
    let world = World::generate(plan.people, plan.seed);
    say(format_args!("{} people, {} pubs, seed {}", world.people, world.pubs, plan.seed));
    if plan.odd {
        return run_odd(&world, WARM);
    }
    say(
        "| scheduler | 50 %, s | 99 %, s | worst tenth, s | starved | sessions, mean (most) | opened, failed per message | bytes per message | relayed | half leave: 99 %, s | partition heals: 99 %, s | no pubs: 99 %, s |",
    );
    say("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let disasters = [
        Script::after(WARM, Disaster::HalfLeave, 15 * MINUTE),
        Script::after(WARM, Disaster::Partition(5 * MINUTE + WARM), 20 * MINUTE),
        Script::after(WARM, Disaster::PubsVanish, 15 * MINUTE),
    ];
    for rules in Rules::ALL {
        let calm = sim::run(&world, rules, &Script::calm(WARM, 10 * MINUTE, 15 * MINUTE));
        let after = disasters.map(|script| number(sim::run(&world, rules, &script).reach.1));
        say(format_args!("| {} | {} | {} |", rules.name(), cells(&calm), after.join(" | ")));
    }
}

/// The calm script once more, with and without those who do not do what they should.
fn run_odd(world: &World, warm: u64) {
    say(
        "| scheduler | 99 %, s | … among honest people with odd ones, s | starved | chosen sessions with those, % | dials to those, % |",
    );
    say("|---|---|---|---|---|---|");
    let calm = Script::calm(warm, 10 * MINUTE, 15 * MINUTE);
    for rules in Rules::ALL {
        let without = sim::run(world, rules, &calm);
        let with = sim::run(world, rules, &Script { odds: Some(Odds::MANY), ..calm });
        let (sessions, dials) = with.useless;
        say(format_args!(
            "| {} | {} | {} | {} | {:.1} | {:.1} |",
            rules.name(),
            number(without.reach.1),
            number(with.reach.1),
            with.starved,
            100.0 * sessions,
            100.0 * dials
        ));
    }
}

fn cells(calm: &Measures) -> String {
    let Measures { reach, worst_decile, starved, sessions, opened, bytes, relayed, .. } = calm;
    format!(
        "{} | {} | {} | {starved} | {:.1} ({}) | {:.2}, {:.2} | {bytes:.0} | {:.0} %",
        number(reach.0),
        number(reach.1),
        number(*worst_decile),
        sessions.0,
        sessions.1,
        opened.0,
        opened.1,
        100.0 * relayed
    )
}

fn number(seconds: f64) -> String {
    match seconds {
        s if s.is_infinite() => "not all".to_owned(),
        s if s < 10.0 => format!("{s:.2}"),
        s => format!("{s:.0}"),
    }
}
