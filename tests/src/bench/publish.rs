//! `bench publish`: an owner's program publishes posts over its session: the socket file of ours, TCP with the
//! owner's key to the others, of which one kind has no socket. Ours waits for the disk, the others do not.

use std::fs;

use futures::{StreamExt as _, stream};
use hawsepipe_overlay::conn::Session;
use hawsepipe_tests::wait;
use serde_json::{Value, json};

use super::figures::{Figures, Row};
use super::machine::fdatasync;
use super::subject::{Kind, Role, Subject, copy};
use super::{Bench, say};

/// Posts one after the other. Stock JavaScript takes 44 ms for each.
const ONE_BY_ONE: usize = 200;
/// Posts at once, and how many of them are unanswered at a time.
const BURST: usize = 10_000;
const UNANSWERED: usize = 1000;

pub(super) fn measure(bench: &Bench, figures: &mut Figures) {
    bench.interleave(|kind, round| {
        let dir = bench.host.dir().join("publisher");
        copy(&bench.source(kind), &dir);
        // What was copied is not to be written while the figures are taken.
        nix::unistd::sync();
        let subject = Subject::start(bench, kind, Role::Source, &dir);
        let before = fdatasync(bench.host.dir());
        let (each, burst) = subject.control.run(async |session: &Session| {
            let each = one_by_one(session).await;
            (each, at_once(session).await)
        });
        // Where the journal waits for a busy processor, it does so for seconds: the better one is the disk's.
        let disk = before.min(fdatasync(bench.host.dir()));
        if kind == Kind::Ours {
            figures.add(Row::Fdatasync, kind, disk);
        }
        figures.add(Row::PublishOne, kind, each);
        figures.add(Row::PublishBurst, kind, burst);
        say(format_args!(
            "publish {}: {}: {each:.2} ms each, {burst:.0} msg/s at once, fdatasync {disk:.2} ms",
            round + 1,
            kind.name()
        ));
        subject.stop();
        fs::remove_dir_all(&dir).ok();
    });
}

fn post(number: usize) -> Value {
    let text = format!("Number {number}. {}", "A post of usual length says a little more. ".repeat(3));
    json!({ "type": "post", "text": text, "mentions": [] })
}

async fn publish(session: &Session, number: usize) {
    let published = session.call(&["publish"], vec![post(number)]).await;
    published.unwrap_or_else(|e| panic!("post {number} was not published: {e}"));
}

/// The median of what one takes, in milliseconds.
async fn one_by_one(session: &Session) -> f64 {
    let mut times = Vec::with_capacity(ONE_BY_ONE);
    for number in 0..ONE_BY_ONE {
        let started = wait::now();
        publish(session, number).await;
        times.push((wait::now() - started).as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    times[ONE_BY_ONE / 2]
}

/// Posts in a second, each of them answered.
async fn at_once(session: &Session) -> f64 {
    let started = wait::now();
    let posts = (0..BURST).map(|number| publish(session, number));
    stream::iter(posts).buffer_unordered(UNANSWERED).collect::<()>().await;
    BURST as f64 / (wait::now() - started).as_secs_f64()
}
