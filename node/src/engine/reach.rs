//! How others reach us, as the overlay finds out: told to the operator when it changes.

use std::collections::BTreeMap;

use hawsepipe_overlay::conn::Carrier;
use hawsepipe_overlay::reachability::Report;

use super::Engine;
use crate::reachability::{NATS, VERDICTS, doctor, nat_label, nats, verdict_label};

impl Engine {
    /// The overlay knows something else now; or it is time to look.
    pub(super) fn on_reachability(&mut self) {
        let report = self.ctx.overlay.reachability();
        self.show_reachability(&report);
        let before = std::mem::replace(&mut self.report, report);
        let now = &self.report;
        if before.verdict != now.verdict {
            let (from, to) = (verdict_label(before.verdict), verdict_label(now.verdict));
            tracing::info!(from, to, "how others can reach this node has changed");
        }
        for relay in now.reservations.iter().filter(|relay| !before.reservations.contains(relay)) {
            tracing::info!(at = relay, "relay reservation held");
        }
        for relay in before.reservations.iter().filter(|relay| !now.reservations.contains(relay)) {
            tracing::info!(at = relay, "relay reservation lost");
        }
    }

    fn show_reachability(&self, report: &Report) {
        let metrics = &self.ctx.metrics.reach;
        for verdict in VERDICTS {
            let is_it = i64::from(verdict == report.verdict);
            metrics.reachability.with_label_values(&[verdict_label(verdict)]).set(is_it);
        }
        for (family, transport, found) in nats(report) {
            for nat in NATS {
                let labels = [family, transport, nat_label(nat)];
                metrics.nat.with_label_values(&labels).set(i64::from(nat == found));
            }
        }
        metrics.reservations.set(report.reservations.len() as i64);
        metrics.circuits.set(report.circuits as i64);
    }

    /// Brings the counters of what the overlay counts itself up to date.
    pub(super) fn count_overlay(&mut self) {
        let now = self.ctx.overlay.counters().snapshot();
        let metrics = &self.ctx.metrics.reach;
        let before = &self.counted;
        for ((carrier, rule), grown) in grown(&before.turned_away, &now.turned_away) {
            metrics.turned_away.with_label_values(&[carrier.label(), rule]).inc_by(grown);
        }
        let requests = [
            ("reservation", &before.relay_reservations, &now.relay_reservations),
            ("circuit", &before.relay_circuits, &now.relay_circuits),
        ];
        for (kind, before, now) in requests {
            for ((tier, outcome), grown) in grown(before, now) {
                metrics.relay_requests.with_label_values(&[kind, tier.label(), outcome]).inc_by(grown);
            }
        }
        for ((tier, reason), grown) in grown(&before.relay_closed, &now.relay_closed) {
            metrics.relay_closed.with_label_values(&[tier.label(), reason]).inc_by(grown);
        }
        for (outcome, grown) in grown(&before.own_reservations, &now.own_reservations) {
            metrics.own_reservations.with_label_values(&[outcome]).inc_by(grown);
        }
        let dht = &self.ctx.metrics.dht;
        for (outcome, grown) in grown(&before.dht_records, &now.dht_records) {
            dht.store.with_label_values(&[outcome]).inc_by(grown);
        }
        for (kind, grown) in grown(&before.dht_requests, &now.dht_requests) {
            dht.requests.with_label_values(&[kind]).inc_by(grown);
        }
        metrics.dropped_events.inc_by(now.dropped_events.saturating_sub(self.counted.dropped_events));
        self.counted = now;
    }

    /// What `doctor` looks at.
    pub(super) fn facts(&self) -> doctor::Facts {
        let live = self.connected().filter(|open| open.peer != self.ctx.own_key);
        let (mut direct, mut relayed) = (0, 0);
        for open in live {
            if open.info.carrier == Carrier::Relay {
                relayed += 1;
            } else {
                direct += 1;
            }
        }
        let overlay = self.ctx.config.overlay.is_some();
        let report = self.ctx.overlay.reachability();
        doctor::Facts { overlay, report, direct, relayed, dht: self.dht_facts() }
    }
}

/// By how much each count has grown.
fn grown<'a, K: Ord + Copy>(
    before: &'a BTreeMap<K, u64>,
    now: &'a BTreeMap<K, u64>,
) -> impl Iterator<Item = (K, u64)> + 'a {
    now.iter().map(|(key, count)| {
        let before = before.get(key).copied().unwrap_or(0);
        (*key, count.saturating_sub(before))
    })
}
