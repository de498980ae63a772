//! All that one identity opens and seals private messages with.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use curve25519_dalek::edwards::CompressedEdwardsY;
use hkdf::Hkdf;
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};
use ssb_crypto::ephemeral::{EphPublicKey, EphSecretKey, derive_shared_secret, sk_to_curve};
use ssb_crypto::{AsBytes as _, Keypair};

use super::envelope::{self, Place, ReadKey, Scheme, SlotKey, bfe, feed_bfe, slp};
use super::groups::{Group, Invitation, MAX_KEYS};
use super::opened::{Format, Opened, ciphertext, decode};
use super::{SealError, box1};
use crate::message::Message;
use crate::refs::{FeedId, GroupId, MessageId};

/// Groups of one identity at most. Each costs every envelope a try.
pub const MAX_GROUPS: usize = 1_000;

/// Feeds whose shared keys are remembered: at least this many of those used last, at most twice as many.
const REMEMBERED: usize = 4_096;

/// No room for another group, or for another key of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no room for more groups or keys of groups: there are {MAX_GROUPS} groups at most, with {MAX_KEYS} keys each"
)]
pub struct GroupFull;

/// See the module's header.
pub struct Keyring {
    own: FeedId,
    secret: EphSecretKey,
    own_slot: SlotKey,
    groups: BTreeMap<GroupId, Group>,
    /// Guards keys that were derived before; held only to look one up or to add one.
    shared: Mutex<Shared>,
}

/// Keys shared with feeds; `None` for an id that is no key.
type SharedKeys = Option<[SlotKey; 2]>;

#[derive(Default)]
struct Shared {
    recent: BTreeMap<FeedId, SharedKeys>,
    older: BTreeMap<FeedId, SharedKeys>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("own", &self.own)
            .field("groups", &self.groups.len())
            .finish_non_exhaustive()
    }
}

impl Keyring {
    /// The keys that follow from an identity; groups are added.
    pub fn new(keypair: &Keypair) -> Self {
        Self {
            own: FeedId::from_bytes(keypair.public.0),
            secret: sk_to_curve(&keypair.secret).expect("a key pair's secret half is a scalar"),
            own_slot: own_slot(keypair),
            groups: BTreeMap::new(),
            shared: Mutex::default(),
        }
    }

    /// Adds a group, or keys to one. Tells whether anything of it was new.
    pub fn add_group(&mut self, id: GroupId, group: &Group) -> Result<bool, GroupFull> {
        if !self.groups.contains_key(&id) && self.groups.len() >= MAX_GROUPS {
            return Err(GroupFull);
        }
        let known = self.groups.entry(id).or_insert_with(|| Group { root: group.root, keys: Vec::new() });
        let new: Vec<_> = group.keys.iter().filter(|key| !known.keys.contains(key)).cloned().collect();
        if known.keys.len() + new.len() > MAX_KEYS {
            return Err(GroupFull);
        }
        let grew = !new.is_empty();
        known.keys.extend(new);
        Ok(grew)
    }

    /// What is known of a group.
    pub fn group(&self, id: &GroupId) -> Option<&Group> {
        self.groups.get(id)
    }

    /// All groups.
    pub fn groups(&self) -> impl Iterator<Item = (&GroupId, &Group)> {
        self.groups.iter()
    }

    /// The key of what is sealed for ourselves alone. It follows from the secret, so whoever restores that can
    /// read it again.
    pub fn own_slot(&self) -> &SlotKey {
        &self.own_slot
    }

    /// The key for direct messages to a feed.
    pub fn slot_of(&self, feed: &FeedId) -> Result<SlotKey, SealError> {
        if *feed == self.own {
            return Ok(self.own_slot.clone());
        }
        let [as_js, _] = self.shared_with(feed).ok_or(SealError::BadKey(*feed))?;
        Ok(as_js)
    }

    /// Opens a message if it is for us.
    pub fn open(&self, message: &Message) -> Option<Opened> {
        let (format, sealed) = ciphertext(message)?;
        match format {
            Format::Box1 => self.open_box1(&sealed),
            Format::Envelope => self.open_envelope(message, &sealed),
        }
    }

    /// Opens all messages that are for us, on all cores.
    pub fn open_all(&self, messages: &[Message]) -> Vec<Option<Opened>> {
        messages.par_iter().map(|message| self.open(message)).collect()
    }

    /// Opens a content that is not known to stand in any message: only box1 can be.
    pub fn open_content(&self, content: &str) -> Option<Opened> {
        match decode(content)? {
            (Format::Box1, sealed) => self.open_box1(&sealed),
            (Format::Envelope, _) => None,
        }
    }

    /// What a message adds to the groups, if it invites us and its proof is `root`, the group's first message.
    pub fn invitation(&self, opened: &Opened) -> Option<Invitation> {
        let invitation = Invitation::read(opened.content_json())?;
        // Who reads it as a member has the key already, unless members were excluded since.
        let is_for_us = opened.group == Some(invitation.id) || invitation.members.contains(&self.own);
        is_for_us.then_some(invitation)
    }

    fn open_box1(&self, sealed: &[u8]) -> Option<Opened> {
        let key = box1::open_key(sealed, &self.secret)?;
        Opened::new(Format::Box1, None, &box1::open_body(sealed, &key)?, &key.to_bytes())
    }

    fn open_envelope(&self, message: &Message, sealed: &[u8]) -> Option<Opened> {
        let place = Place::new(&message.author(), message.previous().as_ref());
        let of_groups = self.groups.iter().find_map(|(id, group)| {
            let open = |key| envelope::open_key(sealed, &place, key, 1);
            group.keys.iter().rev().find_map(open).map(|key| (Some(*id), key))
        });
        let (group, key) = of_groups.or_else(|| Some((None, self.open_direct(message, sealed, &place)?)))?;
        opened_envelope(sealed, &place, group, &key)
    }

    /// As a message to ourselves, or of its author to us.
    fn open_direct(&self, message: &Message, sealed: &[u8], place: &Place) -> Option<ReadKey> {
        let open = |key: &SlotKey| envelope::open_key(sealed, place, key, envelope::MAX_RECIPIENTS);
        if message.author() == self.own {
            return open(&self.own_slot);
        }
        self.shared_with(&message.author())?.iter().find_map(open)
    }

    fn shared_with(&self, feed: &FeedId) -> SharedKeys {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keys) = shared.recall(feed) {
            return keys;
        }
        drop(shared);
        let keys = direct_keys(&self.own, &self.secret, feed);
        shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.remember(*feed, keys.clone());
        keys
    }
}

/// Opens a message with the key that somebody gave away for it (`unbox` in links).
pub(super) fn open_with(message: &Message, key: &[u8]) -> Option<Opened> {
    let (format, sealed) = ciphertext(message)?;
    match format {
        Format::Box1 => {
            let body = box1::open_body(&sealed, &box1::BodyKey::from_bytes(key)?)?;
            Opened::new(Format::Box1, None, &body, key)
        }
        Format::Envelope => {
            let place = Place::new(&message.author(), message.previous().as_ref());
            opened_envelope(&sealed, &place, None, &ReadKey::from_bytes(key)?)
        }
    }
}

impl Opened {
    /// Opens a message with the key that somebody gave away for it (`unbox` in links).
    pub fn with_key(message: &Message, key: &[u8]) -> Option<Self> {
        open_with(message, key)
    }
}

fn opened_envelope(sealed: &[u8], place: &Place, group: Option<GroupId>, key: &ReadKey) -> Option<Opened> {
    Opened::new(Format::Envelope, group, &envelope::open_body(sealed, place, key)?, &key.to_bytes())
}

impl Shared {
    fn recall(&mut self, feed: &FeedId) -> Option<SharedKeys> {
        if let Some(keys) = self.recent.get(feed) {
            return Some(keys.clone());
        }
        let keys = self.older.remove(feed)?;
        self.remember(*feed, keys.clone());
        Some(keys)
    }

    fn remember(&mut self, feed: FeedId, keys: SharedKeys) {
        if self.recent.len() >= REMEMBERED {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(feed, keys);
    }
}

fn own_slot(keypair: &Keypair) -> SlotKey {
    let mut key = [0; 32];
    let seed = Hkdf::<Sha256>::new(Some(b"hawsepipe"), keypair.secret.as_bytes());
    seed.expand(b"envelope key for self 1", &mut key).expect("32 bytes are one block");
    SlotKey::new(Scheme::Own, key)
}

/// What two feeds share for direct messages (private-group-spec, "direct-messages"). The specification sorts the
/// two sides by bytes; JavaScript sorts them as texts, in which whatever is not UTF-8 is the same. First what
/// JavaScript does, then the other.
fn direct_keys(own: &FeedId, secret: &EphSecretKey, other: &FeedId) -> SharedKeys {
    let [ours, theirs] = [curve_key(own)?, curve_key(other)?];
    let input = derive_shared_secret(secret, &theirs)?;
    let side = |feed: &FeedId, key: &EphPublicKey| [bfe([3, 0], &key.0), feed_bfe(feed)].concat();
    let (mut low, mut high) = (side(own, &ours), side(other, &theirs));
    if high < low {
        std::mem::swap(&mut low, &mut high);
    }
    let by_bytes = direct_key(&input.0, &low, &high);
    let utf16 = |side: &[u8]| String::from_utf8_lossy(side).encode_utf16().collect::<Vec<_>>();
    let swapped = utf16(&high) < utf16(&low);
    let as_js = if swapped { direct_key(&input.0, &high, &low) } else { by_bytes.clone() };
    Some([as_js, by_bytes])
}

fn direct_key(input: &[u8; 32], first: &[u8], second: &[u8]) -> SlotKey {
    let salt = Sha256::digest(b"envelope-dm-v1-extract-salt");
    let info = slp(&[b"envelope-ssb-dm-v1/key", first, second]);
    let mut key = [0; 32];
    let extracted = Hkdf::<Sha256>::new(Some(&salt), input);
    extracted.expand(&info, &mut key).expect("32 bytes are one block");
    SlotKey::new(Scheme::DirectMessage, key)
}

/// A feed's key on the other curve; `None` for what libsodium refuses, too.
fn curve_key(feed: &FeedId) -> Option<EphPublicKey> {
    let point = CompressedEdwardsY(feed.to_bytes()).decompress()?;
    let is_good = !point.is_small_order() && point.is_torsion_free();
    is_good.then(|| EphPublicKey(point.to_montgomery().to_bytes()))
}

/// Where a message is to stand, and whom it is sealed for.
#[derive(Clone, Debug)]
pub struct EnvelopeDraft {
    /// The content, compact JSON.
    pub plaintext: Vec<u8>,
    /// Its recipients' keys.
    pub recipients: Vec<SlotKey>,
}

impl EnvelopeDraft {
    /// The content of the message of `author` behind `previous`, as a JSON string.
    pub fn seal(&self, author: &FeedId, previous: Option<&MessageId>) -> Result<Vec<u8>, SealError> {
        let sealed = envelope::seal(&self.plaintext, &Place::new(author, previous), &self.recipients)?;
        Ok(quoted(&sealed, ".box2"))
    }
}

/// A content as a JSON string: base64 and a suffix.
pub(super) fn quoted(sealed: &[u8], suffix: &str) -> Vec<u8> {
    use base64::Engine as _;
    let base64 = base64::engine::general_purpose::STANDARD.encode(sealed);
    format!("\"{base64}{suffix}\"").into_bytes()
}

/// Seals compact JSON for feeds with box1: the content of a message, as a JSON string.
pub fn seal_box1(plaintext: &[u8], recipients: &[FeedId]) -> Result<Vec<u8>, SealError> {
    Ok(quoted(&box1::seal(plaintext, recipients)?, ".box"))
}
