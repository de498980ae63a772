//! What the node is and does, for people: `whoami`, `status`, `peers` and `doctor`.

use serde_json::{Value, json};

use super::client::Failure;
use super::names::Names;
use super::output;
use super::page::{ACCENT, FAINT, Facts, Look, NAME, Page};
use super::text;
use crate::client::{Client, Peer};

/// `hawsepipe whoami`.
pub(super) async fn whoami(client: &Client, facts: &Facts) -> Result<(), Failure> {
    let own = client.whoami().await?;
    let mut page = Page::short(facts);
    if page.is_text() {
        page.line(&own.to_string());
    } else {
        page.json(json!({ "id": own }).to_string().as_bytes());
    }
    page.finish();
    Ok(())
}

/// `hawsepipe status`.
pub(super) async fn status(client: &Client, facts: &Facts) -> Result<(), Failure> {
    let body = client.call_raw("status", Vec::new()).await?;
    let mut page = Page::short(facts);
    if page.is_text() {
        let status: Value = body.decode().unwrap_or_default();
        for line in status_lines(&status, page.look()) {
            page.line(&line);
        }
    } else {
        page.json(&body.bytes);
    }
    page.finish();
    Ok(())
}

fn status_lines(status: &Value, look: Look) -> Vec<String> {
    let number = |pointer: &str| status.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let line = |name: &str, what: String| format!("{} {what}", look.paint(NAME, &format!("{name:<11}")));
    let mut lines = vec![
        line("id", text::one_line(status["id"].as_str().unwrap_or_default())),
        line(
            "messages",
            format!(
                "{} of {} feeds, {} MB",
                number("/db/messages"),
                number("/db/feeds"),
                number("/db/bytes") / 1_000_000
            ),
        ),
    ];
    let (have, want) = (number("/progress/ebt/current"), number("/progress/ebt/target"));
    let progress = match want {
        want if have >= want => "up to date with all peers".to_owned(),
        want => format!("{} messages to come, {} % here", want - have, have * 100 / want),
    };
    lines.push(line("replicating", format!("{} feeds; {progress}", number("/replicating"))));
    let (done, all) = (number("/progress/indexes/current"), number("/progress/indexes/target"));
    if done < all {
        lines.push(line("indexing", format!("{} %", done.saturating_mul(100) / all)));
    }
    let sessions = status["sessions"].as_array().map_or(&[][..], Vec::as_slice);
    let peers = sessions.iter().filter(|session| session["carrier"] != "unix").count();
    lines.push(line("sessions", format!("{peers} with peers; {} peers are known", number("/peers"))));
    if status.pointer("/publishing/allowed") == Some(&Value::Bool(false)) {
        let why = status.pointer("/publishing/why").and_then(Value::as_str).unwrap_or("not now");
        lines.push(line("publishing", text::one_line(why)));
    }
    for address in status["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        lines.push(line("listening", look.paint(FAINT, &text::one_line(address))));
    }
    lines
}

/// `hawsepipe peers`.
pub(super) async fn peers(client: &Client, only_connected: bool, facts: &Facts) -> Result<(), Failure> {
    let mut page = Page::short(facts);
    if page.is_text() {
        let mut peers = client.peers().await?;
        peers.retain(|peer| !only_connected || peer.is_connected());
        peers.sort_by_key(|peer| (!peer.is_connected(), peer.hops.unwrap_or(i64::MAX)));
        let mut names = Names::of_node(client).await?;
        for peer in &peers {
            names.learn(client, &[peer.id]).await?;
            page.line(&peer_line(peer, &names, page.look()));
        }
    } else {
        for (address, data) in client.known_peers().await? {
            if !only_connected || data["state"] == "connected" {
                page.json(json!({ "address": address, "data": data }).to_string().as_bytes());
            }
        }
    }
    page.finish();
    Ok(())
}

/// `hawsepipe peers --why`.
pub(super) async fn why(client: &Client, id: Option<String>, facts: &Facts) -> Result<(), Failure> {
    let told: Value = client.call("conn.why", id.map(Value::from).into_iter().collect()).await?;
    let mut page = Page::long(facts);
    if page.is_text() || !facts.json {
        page.line(&text::one_line(told["summary"].as_str().unwrap_or_default()));
        for peer in told["peers"].as_array().into_iter().flatten() {
            let word = |name: &str| text::one_line(peer[name].as_str().unwrap_or_default());
            page.line("");
            page.line(&format!("{}: {}", word("key"), word("verdict")));
            for line in peer["lines"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                page.line(&format!("  {}", text::one_line(line)));
            }
        }
    } else {
        page.json(told.to_string().as_bytes());
    }
    page.finish();
    Ok(())
}

fn peer_line(peer: &Peer, names: &Names, look: Look) -> String {
    let state = if peer.is_connected() {
        let carrier = peer.carrier.as_deref().unwrap_or("connected");
        look.paint(ACCENT, &format!("{:<12}", text::word(carrier)))
    } else {
        look.paint(FAINT, &format!("{:<12}", text::word(&peer.state)))
    };
    let hops = match peer.hops {
        Some(hops) if hops < 0 => "blocked".to_owned(),
        Some(1) => "1 hop".to_owned(),
        Some(hops) => format!("{hops} hops"),
        None => "stranger".to_owned(),
    };
    let address = look.paint(FAINT, &text::one_line(&peer.address));
    format!("{state} {hops:<8} {}  {address}", look.paint(NAME, &names.shown(&peer.id)))
}

/// `hawsepipe doctor`.
pub(super) async fn doctor(client: &Client) -> Result<(), Failure> {
    let found: Value = client.call("doctor", Vec::new()).await?;
    for line in found["lines"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        output::line(line);
    }
    if found["healthy"] == true { Ok(()) } else { Err(Failure::Attention) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_said_in_lines() {
        let status = json!({
            "id": "@x", "db": { "messages": 12, "feeds": 3, "bytes": 4_000_000 }, "replicating": 5, "peers": 6,
            "progress": { "ebt": { "current": 50, "target": 200 }, "indexes": { "current": 1, "target": 2 } },
            "sessions": [{ "carrier": "unix" }, { "carrier": "net" }],
            "publishing": { "allowed": false, "why": "asks\u{1b}[2J peers" }, "addresses": ["net:x"],
        });
        let text = status_lines(&status, Look { colour: false, width: 80 }).join("\n");
        for part in [
            "12 of 3 feeds, 4 MB",
            "5 feeds; 150 messages to come, 25 % here",
            "indexing    50 %",
            "1 with peers",
            "asks[2J peers",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
        assert!(status_lines(&Value::Null, Look { colour: true, width: 80 }).len() >= 4);
    }
}
