//! Private groups (private-group-spec): everybody who has a group's key reads what is published to it.
//!
//! A group begins with a `group/init` message, sealed with a fresh key; its id is made of that message and of
//! how it is read, so only members can check it. `group/add-member` messages carry the key to new members:
//! version 1 (ssb-tribes) has `groupKey`, version 2 (ssb-tribes2) `secret` and, after members were excluded,
//! `oldSecrets`.
//!
//! An invitation is believed when one of its keys opens the group's first message and gives the group's id. So
//! nobody outside of a group can slip another key into it, and have what is meant for it sealed for himself.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::envelope::{self, Place, Scheme, SlotKey};
use super::opened::{Format, ciphertext};
use crate::message::{Content, Message, json};
use crate::refs::{FeedId, GroupId, MessageId};

/// The type of the message that begins a group.
pub const INIT: &str = "group/init";
/// The type of the message that adds members.
pub const ADD_MEMBER: &str = "group/add-member";

/// Keys of one group at most: one, and one more for each time that members were excluded.
pub const MAX_KEYS: usize = 64;

/// What a member knows of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Its first message.
    pub root: MessageId,
    /// Its keys; the last one seals.
    pub keys: Vec<SlotKey>,
}

impl Group {
    /// The key that new messages are sealed with.
    pub fn write_key(&self) -> Option<&SlotKey> {
        self.keys.last()
    }
}

/// What a `group/add-member` message says.
#[derive(Clone, Debug, PartialEq)]
pub struct Invitation {
    /// The group.
    pub id: GroupId,
    /// Its first message and its keys.
    pub group: Group,
    /// Who is added, as far as they are classic feeds.
    pub members: Vec<FeedId>,
}

impl Invitation {
    /// Reads an opened content; `None` if it adds nobody to any group.
    pub fn read(content: &str) -> Option<Self> {
        let content = Content::from_canonical(content)?;
        let Content::Object { kind, .. } = &content else { return None };
        if kind != ADD_MEMBER {
            return None;
        }
        let text = |name: &str| unquote(content.member(name)?);
        let root = MessageId::from_any(&text("root")?)?;
        let recps: Vec<String> = serde_json::from_str(content.member("recps")?).ok()?;
        let (id, members) = recps.split_first()?;
        let old =
            content.member("oldSecrets").and_then(|list| serde_json::from_str::<Vec<String>>(list).ok());
        let newest = text("groupKey").or_else(|| text("secret"))?;
        let keys = old.unwrap_or_default().into_iter().take(MAX_KEYS - 1).chain([newest]);
        let keys: Option<Vec<_>> = keys.map(|key| slot_key(&key)).collect();
        Some(Self {
            id: GroupId::from_any(id)?,
            group: Group { root, keys: keys? },
            members: members.iter().filter_map(|member| member.parse().ok()).collect(),
        })
    }

    /// Whether its keys are those of the group whose first message is `root`.
    pub fn is_proven_by(&self, root: &Message) -> bool {
        root.id() == self.group.root && self.group.keys.iter().any(|key| group_of(root, key) == Some(self.id))
    }
}

/// The group that a message began, if `key` opens it.
pub fn group_of(root: &Message, key: &SlotKey) -> Option<GroupId> {
    let (Format::Envelope, sealed) = ciphertext(root)? else { return None };
    let place = Place::new(&root.author(), root.previous().as_ref());
    let read_key = envelope::open_key(&sealed, &place, key, 1)?;
    Some(envelope::cloaked_id(&read_key, &root.id()))
}

fn slot_key(base64: &str) -> Option<SlotKey> {
    let bytes = STANDARD.decode(base64).ok()?;
    Some(SlotKey::new(Scheme::Group, bytes.try_into().ok()?))
}

/// A JSON string's text.
fn unquote(written: &str) -> Option<String> {
    let inner = written.strip_prefix('"')?.strip_suffix('"')?;
    Some(json::unescape(inner).into_owned())
}
