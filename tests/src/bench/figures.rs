//! What was measured, as a table of medians, and what it says of the figures that are to be reached.

use std::fmt::Write as _;

use super::subject::Kind;

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    Received,
    Indexed,
    Verified,
    VerifiedByBoth,
    FirstScreen,
    FirstShare,
    SinkCpu,
    SourceCpu,
    SinkPeak,
    Disk,
    DiskShare,
    SearchDisk,
    History,
    HistoryPerCpu,
    Fdatasync,
    PublishOne,
    PublishBurst,
    Start,
    Rebuild,
    QueryGet,
    QueryHops,
    QueryNewest,
    QueryAuthor,
    QueryContacts,
    QueryLog,
    QueryThread,
    QueryVotes,
    QueryWordNewest,
    QueryWord,
    QueryCold,
    QueryInSync,
    QueryDecoding,
    QueryIdleMemory,
    QueryMemory,
    Handshakes,
    HandshakeCpu,
    SessionMemory,
    IdleSession,
    EbtSession,
    Delivered,
    DeliveredCpu,
    Accepted,
    AcceptedPerCpu,
    ShsAlone,
    CallIdle,
    CallFloodOne,
    CallFloodAll,
    Scrape,
    ScrapeCpu,
    Unbox,
    UnboxPerCpu,
    Imported,
    BlobAdd,
    BlobGet,
    BoxStream,
    WantsCpu,
    WantsMemory,
}

impl Row {
    const ALL: [Self; 57] = [
        Self::Received,
        Self::Indexed,
        Self::Verified,
        Self::VerifiedByBoth,
        Self::FirstScreen,
        Self::FirstShare,
        Self::SinkCpu,
        Self::SourceCpu,
        Self::SinkPeak,
        Self::Disk,
        Self::DiskShare,
        Self::SearchDisk,
        Self::History,
        Self::HistoryPerCpu,
        Self::PublishOne,
        Self::Fdatasync,
        Self::PublishBurst,
        Self::Start,
        Self::Rebuild,
        Self::QueryGet,
        Self::QueryHops,
        Self::QueryNewest,
        Self::QueryAuthor,
        Self::QueryContacts,
        Self::QueryLog,
        Self::QueryThread,
        Self::QueryVotes,
        Self::QueryWordNewest,
        Self::QueryWord,
        Self::QueryCold,
        Self::QueryInSync,
        Self::QueryDecoding,
        Self::QueryIdleMemory,
        Self::QueryMemory,
        Self::Handshakes,
        Self::HandshakeCpu,
        Self::SessionMemory,
        Self::IdleSession,
        Self::EbtSession,
        Self::Delivered,
        Self::DeliveredCpu,
        Self::Accepted,
        Self::AcceptedPerCpu,
        Self::ShsAlone,
        Self::CallIdle,
        Self::CallFloodOne,
        Self::CallFloodAll,
        Self::Scrape,
        Self::ScrapeCpu,
        Self::Unbox,
        Self::UnboxPerCpu,
        Self::Imported,
        Self::BlobAdd,
        Self::BlobGet,
        Self::BoxStream,
        Self::WantsCpu,
        Self::WantsMemory,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Received => "initial sync by EBT, messages/s until all are there",
            Self::Indexed => "… until all are indexed too",
            Self::Verified => "one core's batch verification of the corpus, messages/s",
            Self::VerifiedByBoth => "… of both cores together",
            Self::FirstScreen => "first screen in that sync, s",
            Self::FirstShare => "… of the sync's time, %",
            Self::SinkCpu => "processor time of the receiver, s",
            Self::SourceCpu => "processor time of the sender, s",
            Self::SinkPeak => "peak memory of the receiver, MiB",
            Self::Disk => "disk of the receiver after, without full-text search, MiB",
            Self::DiskShare => "… of the sum of the signed forms",
            Self::SearchDisk => "disk of full-text search, MiB",
            Self::History => "serving createHistoryStream, messages/s",
            Self::HistoryPerCpu => "… messages per CPU second of the server",
            Self::Fdatasync => "(one fdatasync of 4 KiB here, ms)",
            Self::PublishOne => "publish, one at a time, ms",
            Self::PublishBurst => "publish, many at once, messages/s",
            Self::Start => "start until the first answer, ms",
            Self::Rebuild => "start without indexes until they are there, s",
            Self::QueryGet => "get by id, ms",
            Self::QueryHops => "friends.hops, ms",
            Self::QueryNewest => "the newest 50 posts, ms",
            Self::QueryAuthor => "all of the author with most messages, ms",
            Self::QueryContacts => "all contacts, ms",
            Self::QueryLog => "the whole log, ms",
            Self::QueryThread => "the longest thread by its root (backlinks.read), ms",
            Self::QueryVotes => "votes on the message with most of them (backlinks.read), ms",
            Self::QueryWordNewest => "messages with a frequent word, the first 50 (search.query), ms",
            Self::QueryWord => "… all of them, ms",
            Self::QueryCold => {
                "the first of these after a start, times the warm one, worst of those over 1 ms"
            }
            Self::QueryInSync => "the newest 50 posts during a sync, times the idle one",
            Self::QueryDecoding => {
                "a JavaScript client's time for those with 1,000 items or more, times its own decoding, worst"
            }
            Self::QueryIdleMemory => "memory after the start, MiB",
            Self::QueryMemory => "… after all these queries, MiB",
            Self::Handshakes => "handshakes of strangers, 16 at a time, in a second",
            Self::HandshakeCpu => "… processor time of the server for each, ms",
            Self::SessionMemory => "memory of an idle session, KiB",
            Self::IdleSession => "memory of an idle session among many, KiB",
            Self::EbtSession => "memory of a session with EBT and a clock of 500 feeds, KiB",
            Self::Delivered => "messages delivered over all these sessions, messages/s",
            Self::DeliveredCpu => "… processor time of the server for each delivery, us",
            Self::Accepted => "strangers who come and go, 64 at a time, in a second",
            Self::AcceptedPerCpu => "… in a CPU second of the server",
            Self::ShsAlone => "(one core's secret handshakes alone, as server, in a second)",
            Self::CallIdle => "a member's call, p99, ms",
            Self::CallFloodOne => "… while 3,600 handshakes/s come from one address, ms",
            Self::CallFloodAll => "… while as many come from everywhere, ms",
            Self::Scrape => "a scrape with these sessions, ms",
            Self::ScrapeCpu => "… every 15 s, % of a core",
            Self::Unbox => "trial decryption of private messages, messages/s",
            Self::UnboxPerCpu => "… messages per CPU second",
            Self::Imported => "import of ssb-server's log, messages/s",
            Self::BlobAdd => "blobs.add of 5 MB over SHS, MB/s",
            Self::BlobGet => "blobs.get of 5 MB over SHS, MB/s",
            Self::BoxStream => "(the box stream alone over loopback, MB/s)",
            Self::WantsCpu => "10,000 outstanding wants, % of a core",
            Self::WantsMemory => "… memory, MiB",
        }
    }

    fn digits(self) -> usize {
        match self {
            Self::Received
            | Self::Indexed
            | Self::Verified
            | Self::VerifiedByBoth
            | Self::FirstShare
            | Self::SinkPeak
            | Self::Disk
            | Self::SearchDisk
            | Self::History
            | Self::HistoryPerCpu
            | Self::PublishBurst
            | Self::Start
            | Self::QueryLog
            | Self::QueryIdleMemory
            | Self::QueryMemory
            | Self::Handshakes
            | Self::SessionMemory
            | Self::IdleSession
            | Self::EbtSession
            | Self::Delivered
            | Self::Accepted
            | Self::AcceptedPerCpu
            | Self::ShsAlone
            | Self::Unbox
            | Self::UnboxPerCpu
            | Self::Imported
            | Self::BlobAdd
            | Self::BlobGet
            | Self::BoxStream => 0,
            Self::FirstScreen
            | Self::SinkCpu
            | Self::SourceCpu
            | Self::DiskShare
            | Self::Fdatasync
            | Self::PublishOne
            | Self::Rebuild
            | Self::QueryGet
            | Self::QueryHops
            | Self::QueryNewest
            | Self::QueryAuthor
            | Self::QueryContacts
            | Self::QueryThread
            | Self::QueryVotes
            | Self::QueryWordNewest
            | Self::QueryWord
            | Self::QueryCold
            | Self::QueryInSync
            | Self::QueryDecoding
            | Self::HandshakeCpu
            | Self::DeliveredCpu
            | Self::CallIdle
            | Self::CallFloodOne
            | Self::CallFloodAll
            | Self::Scrape
            | Self::ScrapeCpu
            | Self::WantsCpu
            | Self::WantsMemory => 2,
        }
    }
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub(super) struct Figures(Vec<(Row, Kind, f64)>);

impl Figures {
    /// Notes one measurement.
    pub(super) fn add(&mut self, row: Row, kind: Kind, figure: f64) {
        self.0.push((row, kind, figure));
    }

    /// All of one kind, smallest first.
    fn of(&self, row: Row, kind: Kind) -> Vec<f64> {
        let these = self.0.iter().filter(|(r, k, _)| (*r, *k) == (row, kind));
        let mut these: Vec<f64> = these.map(|(_, _, figure)| *figure).collect();
        these.sort_by(f64::total_cmp);
        these
    }

    fn median(&self, row: Row, kind: Kind) -> Option<f64> {
        let these = self.of(row, kind);
        these.get(these.len() / 2).copied()
    }

    /// Median, least and most of everything, as Markdown.
    pub(super) fn table(&self, peers: &[Kind]) -> String {
        let mut text = String::from("\n| |");
        peers.iter().for_each(|kind| write!(text, " {} |", kind.title()).unwrap_or_default());
        text.push_str("\n|---|");
        text.push_str(&"---|".repeat(peers.len()));
        for row in Row::ALL {
            let cells: Vec<String> = peers.iter().map(|kind| self.cell(row, *kind)).collect();
            if cells.iter().any(|cell| cell != "-") {
                write!(text, "\n| {} | {} |", row.name(), cells.join(" | ")).unwrap_or_default();
            }
        }
        text
    }

    fn cell(&self, row: Row, kind: Kind) -> String {
        let these = self.of(row, kind);
        let digits = row.digits();
        match (these.first(), self.median(row, kind), these.last()) {
            (Some(least), Some(median), Some(most)) if these.len() > 1 => {
                format!(
                    "{} [{}..{}]",
                    grouped(median, digits),
                    grouped(*least, digits),
                    grouped(*most, digits)
                )
            }
            (_, Some(only), _) => grouped(only, digits),
            _ => "-".to_owned(),
        }
    }

    /// How our figures stand to what was asked, a line each.
    pub(super) fn verdicts(&self, peers: &[Kind]) -> String {
        let ours = |row| self.median(row, Kind::Ours);
        let best = |row| {
            let theirs = peers.iter().filter(|kind| **kind != Kind::Ours);
            theirs.filter_map(|kind| self.median(row, *kind)).max_by(f64::total_cmp)
        };
        let mut text = String::new();
        let mut say = |what: &str, is: Option<f64>, asked: &str| {
            if let Some(is) = is {
                write!(text, "\n- {what}: {} (asked: {asked})", grouped(is, 2)).unwrap_or_default();
            }
        };
        let ratio = |one: Option<f64>, other: Option<f64>| Some(one? / other?);
        say("sync, times the best JS peer", ratio(ours(Row::Indexed), best(Row::Indexed)), ">= 8");
        let verified = ours(Row::Verified).map(|one| 2.0 * one);
        say(
            "sync, share of 2 x one core's batch verification",
            ratio(ours(Row::Indexed), verified),
            ">= 0.5",
        );
        say("first screen, % of the sync's time", ours(Row::FirstShare), "<= 10");
        let history = ratio(ours(Row::HistoryPerCpu), best(Row::HistoryPerCpu));
        say("history per CPU second, times the best JS peer", history, ">= 10");
        let beyond = ours(Row::PublishOne).zip(ours(Row::Fdatasync)).map(|(one, sync)| one - sync);
        say("publish one at a time, ms beyond an fdatasync", beyond, "<= 0.3");
        say("publish many at once, messages/s", ours(Row::PublishBurst), ">= 20,000");
        say("peak memory of the receiver, MiB", ours(Row::SinkPeak), "<= 120");
        say("disk, times the signed forms", ours(Row::DiskShare), "<= 1.3");
        say("start, ms", ours(Row::Start), "<= 100");
        say("rebuild of all indexes, s", ours(Row::Rebuild), "<= 3");
        let queries = [
            ("get by id, ms", Row::QueryGet, "<= 0.2"),
            ("friends.hops, ms", Row::QueryHops, "<= 0.5"),
            ("the newest 50 posts, ms", Row::QueryNewest, "<= 1"),
            ("the longest thread, ms", Row::QueryThread, "<= 5"),
            ("votes on a message, ms", Row::QueryVotes, "<= 3"),
            ("all of one author, ms", Row::QueryAuthor, "<= 40"),
            ("all contacts, ms", Row::QueryContacts, "<= 50"),
            ("a frequent word, the first 50, ms", Row::QueryWordNewest, "<= 10"),
            ("a frequent word, all, ms", Row::QueryWord, "<= 100"),
            ("the whole log, ms", Row::QueryLog, "<= 600"),
            ("cold queries, times the warm ones", Row::QueryCold, "<= 3"),
            ("queries during a sync, times the idle ones", Row::QueryInSync, "<= 5"),
            ("a JavaScript client, times its own decoding", Row::QueryDecoding, "<= 1.2"),
            ("memory of an idle node, MiB", Row::QueryIdleMemory, "<= 60"),
        ];
        queries.into_iter().for_each(|(what, row, asked)| say(what, ours(row), asked));
        let unbox = ratio(ours(Row::Unbox), best(Row::Unbox));
        say("trial decryption of private messages, times the best JS peer", unbox, ">= 20");
        say("blobs.get, times the best JS peer", ratio(ours(Row::BlobGet), best(Row::BlobGet)), ">= 4");
        let share = ratio(ours(Row::BlobGet), ours(Row::BoxStream));
        say("blobs.get, share of the box stream alone", share, ">= 0.6");
        say("an idle session among many, KiB", ours(Row::IdleSession), "<= 30");
        say("a session with EBT, KiB", ours(Row::EbtSession), "<= 100");
        let share = ratio(ours(Row::AcceptedPerCpu), ours(Row::ShsAlone));
        say("handshakes, share of one core's own", share, ">= 0.6");
        for (what, row) in [("from one address", Row::CallFloodOne), ("from everywhere", Row::CallFloodAll)] {
            let times = ratio(ours(row), ours(Row::CallIdle));
            say(&format!("a member's call in a flood {what}, times the idle one"), times, "<= 3");
        }
        say("a scrape, ms", ours(Row::Scrape), "<= 5");
        say("scrapes every 15 s, % of a core", ours(Row::ScrapeCpu), "< 1");
        say("10,000 outstanding wants, % of a core", ours(Row::WantsCpu), "<= 1");
        say("10,000 outstanding wants, MiB", ours(Row::WantsMemory), "<= 10");
        text
    }
}

/// The number with a comma after each thousand.
fn grouped(number: f64, digits: usize) -> String {
    let text = format!("{number:.digits$}");
    let (whole, rest) = text.find('.').map_or((text.as_str(), ""), |at| text.split_at(at));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_medians_with_their_range_and_only_rows_that_were_measured() {
        let mut figures = Figures::default();
        for rate in [1234.0, 99.0, 1_234_567.0] {
            figures.add(Row::Indexed, Kind::Ours, rate);
        }
        let expected = "\n| | Hawsepipe | ssb-db2 stack |\n|---|---|---|\n\
            | … until all are indexed too | 1,234 [99..1,234,567] | - |";
        assert_eq!(figures.table(&[Kind::Ours, Kind::Db2]), expected);
    }

    #[test]
    fn verdicts_compare_with_the_best_of_the_others() {
        let mut figures = Figures::default();
        figures.add(Row::Indexed, Kind::Ours, 80.0);
        figures.add(Row::Indexed, Kind::Classic, 4.0);
        figures.add(Row::Indexed, Kind::Db2, 8.0);
        assert_eq!(figures.verdicts(&Kind::ALL), "\n- sync, times the best JS peer: 10.00 (asked: >= 8)");
        assert_eq!(figures.verdicts(&[Kind::Ours]), "");
    }
}
