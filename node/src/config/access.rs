//! The section `access`: who may connect, and how many.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use hawsepipe_overlay::keys::PublicKey;

use super::fields::Fields;

/// Farthest distance that `hops:N` can name.
const MAX_HOPS: u32 = 10;

/// What a stranger who dials us may send in a second unless the configuration says otherwise: as much as a good line carries.
const STRANGER_BYTES: NonZeroU32 = NonZeroU32::new(8 << 20).expect("eight is not nothing");

/// What the section means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessConfig {
    /// Who may have a session.
    pub policy: Policy,
    /// Who may have one whatever the policy says, and when there is no room for strangers any more.
    pub members: BTreeSet<PublicKey>,
    /// Sessions at once, local clients not counted.
    pub sessions: usize,
    /// Inbound sessions at once from one IP address (IPv6: one /64), those of friends and members not counted.
    pub per_address: usize,
    /// Bytes that a stranger who dialled us may send in a second, in the long run; `None` is any number, as `false` is in the configuration.
    pub stranger_bytes: Option<NonZeroU32>,
}

/// Who may have a session, blocked feeds and our own keys aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Everybody.
    #[default]
    Open,
    /// Feeds at most so many follows away from us, and members.
    Hops(u32),
    /// Members.
    Members,
    /// Members, and whoever we dial.
    Manual,
}

impl Default for AccessConfig {
    fn default() -> Self {
        Self {
            policy: Policy::Open,
            members: BTreeSet::new(),
            sessions: 400,
            per_address: 64,
            stranger_bytes: Some(STRANGER_BYTES),
        }
    }
}

pub(super) fn read(root: &mut Fields<'_>) -> AccessConfig {
    let mut access = root.section("access");
    access.known(&["policy", "members", "sessions", "perAddress", "strangerBytes"]);
    let default = AccessConfig::default();
    let what = "\"open\", \"hops:N\" with N from 1 to 10, \"members\" or \"manual\"";
    let policy = access.parsed("policy", what, |v| Policy::parse(v.as_str()?));
    let members = access.list("members", "a feed id", |v| v.as_str()?.parse().ok());
    let what = "a whole number from 1 to 65535";
    let count = |v: &serde_json::Value| v.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
    let sessions = access.parsed("sessions", what, count);
    let per_address = access.parsed("perAddress", what, count);
    let what = "a whole number from 1 to 4294967295, or false";
    let bytes = access.parsed("strangerBytes", what, |v| match v.as_bool() {
        Some(false) => Some(None),
        Some(true) => None,
        None => NonZeroU32::new(u32::try_from(v.as_u64()?).ok()?).map(Some),
    });
    AccessConfig {
        policy: policy.unwrap_or(default.policy),
        members: members.into_iter().flatten().collect(),
        sessions: sessions.map_or(default.sessions, usize::from),
        per_address: per_address.map_or(default.per_address, usize::from),
        stranger_bytes: bytes.unwrap_or(default.stranger_bytes),
    }
}

impl Policy {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "open" => Some(Self::Open),
            "members" => Some(Self::Members),
            "manual" => Some(Self::Manual),
            other => {
                let hops = other.strip_prefix("hops:")?.parse().ok()?;
                (1..=MAX_HOPS).contains(&hops).then_some(Self::Hops(hops))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(raw: &Value) -> Result<AccessConfig, Vec<String>> {
        let mut faults = Vec::new();
        let read = super::read(&mut Fields::root(raw, &mut faults));
        if faults.is_empty() { Ok(read) } else { Err(faults.into_iter().map(|fault| fault.key).collect()) }
    }

    #[test]
    fn who_may_connect_is_said_in_words() {
        assert_eq!(read(&json!({})), Ok(AccessConfig::default()));
        let policy = |text: &str| read(&json!({"access": {"policy": text}})).map(|access| access.policy);
        let said = ["open", "hops:2", "members", "manual"].map(|text| policy(text).unwrap());
        assert_eq!(said, [Policy::Open, Policy::Hops(2), Policy::Members, Policy::Manual]);
        for wrong in ["hops", "hops:", "hops:0", "hops:11", "hops:-1", "Open", ""] {
            assert_eq!(policy(wrong), Err(vec!["access.policy".to_owned()]), "{wrong:?}");
        }
    }

    #[test]
    fn strangers_bytes_are_limited_unless_that_is_turned_off() {
        let bytes = |raw: Value| read(&json!({"access": {"strangerBytes": raw}})).map(|a| a.stranger_bytes);
        assert_eq!(bytes(json!(null)), Ok(Some(STRANGER_BYTES)), "null is the default");
        assert_eq!(bytes(json!(1000)), Ok(NonZeroU32::new(1000)));
        assert_eq!(bytes(json!(false)), Ok(None));
        for wrong in [json!(true), json!(0), json!(-1), json!(4_294_967_296_u64), json!("1000")] {
            assert_eq!(bytes(wrong.clone()), Err(vec!["access.strangerBytes".to_owned()]), "{wrong}");
        }
    }

    #[test]
    fn limits_are_positive_and_faults_have_places() {
        let wrong = json!({"access": {"members": ["@me"], "sessions": 0, "perAddress": 70_000, "limit": 3}});
        let places = ["access.limit", "access.members[0]", "access.sessions", "access.perAddress"];
        assert_eq!(read(&wrong).unwrap_err(), places);
    }
}
