//! `conn`: JS's section of ssb-conn. Of its own options JS reads only `autostart` and `populatePubs`; the others are ours.

use super::fields::Fields;
use crate::scheduler::Slots;

/// Most sessions of one kind that can be configured.
const MAX_SLOTS: u64 = 200;

/// Whom the scheduler dials by itself, and how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnConfig {
    /// Whether it dials at all.
    pub autostart: bool,
    /// Whether pubs are dialled because a message of a feed in reach says that they exist.
    pub dial_pubs: bool,
    /// Whether every byte costs, so that relayed connections are worth less.
    pub metered: bool,
    /// How many sessions it looks for.
    pub slots: Slots,
}

/// Reads the section.
pub(super) fn read(root: &mut Fields<'_>) -> ConnConfig {
    let mut conn = root.section("conn");
    let mut config = ConnConfig {
        autostart: conn.bool("autostart").unwrap_or(true),
        dial_pubs: conn.bool("dialPubs").unwrap_or(false),
        metered: conn.bool("metered").unwrap_or(false),
        slots: Slots::default(),
    };
    let mut slots = conn.section("slots");
    slots.known(&["friends", "explore", "lan", "hubs", "inboundReserve"]);
    let Slots { friends, explore, lan, hubs, inbound_reserve } = &mut config.slots;
    let fields = [
        ("friends", friends),
        ("explore", explore),
        ("lan", lan),
        ("hubs", hubs),
        ("inboundReserve", inbound_reserve),
    ];
    for (name, slot) in fields {
        let typed = slots.parsed(name, "a whole number from 0 to 200", |value| {
            value.as_u64().filter(|number| *number <= MAX_SLOTS).map(|number| number as usize)
        });
        *slot = typed.unwrap_or(*slot);
    }
    config
}
