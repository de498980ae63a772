//! A note: the integer that says of one feed how much its sender holds and whether it wants the rest
//! pushed (protocol guide, "Epidemic broadcast trees", version 3).

use std::fmt::Write as _;

use crate::refs::FeedId;

/// What one side says of one feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whether the sender replicates the feed at all. If not, the rest means nothing.
    pub replicate: bool,
    /// Whether the sender wants what follows pushed.
    pub receive: bool,
    /// How much of the feed the sender holds.
    pub sequence: u64,
}

impl Note {
    /// "I do not replicate this feed."
    pub const REFUSE: Self = Self { replicate: false, receive: false, sequence: 0 };

    /// The largest sequence a note can carry. (Peers that shift 32-bit integers stop at 2^30.)
    pub const MAX_SEQUENCE: u64 = i64::MAX as u64 >> 1;

    /// "I hold the feed up to `sequence`, and (do not) push me the rest."
    pub const fn new(sequence: u64, receive: bool) -> Self {
        Self { replicate: true, receive, sequence }
    }

    /// Reads version 3: the lowest bit set means "do not push"; anything negative refuses.
    pub const fn from_wire(wire: i64) -> Self {
        if wire < 0 { Self::REFUSE } else { Self::new((wire >> 1) as u64, wire & 1 == 0) }
    }

    /// Reads version 2: -1 refuses, other negatives are the complement of a sequence not to push.
    pub const fn from_wire_v2(wire: i64) -> Self {
        match wire {
            -1 => Self::REFUSE,
            0.. => Self::new(wire as u64, true),
            _ => Self::new(!wire as u64, false),
        }
    }

    /// Writes version 3.
    pub const fn to_wire(self) -> i64 {
        if !self.replicate {
            return -1;
        }
        let sequence = if self.sequence < Self::MAX_SEQUENCE { self.sequence } else { Self::MAX_SEQUENCE };
        ((sequence << 1) | !self.receive as u64) as i64
    }
}

/// The notes of one packet, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notes(Vec<(FeedId, Note)>);

impl Notes {
    /// How many feeds are named.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no feed is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each feed with its note.
    pub fn iter(&self) -> impl Iterator<Item = (FeedId, Note)> + '_ {
        self.0.iter().copied()
    }

    /// The packet's body.
    pub fn to_json(&self) -> String {
        // A reference has 53 characters; quotes, colon, comma and a short number come on top.
        let mut json = String::with_capacity(2 + self.0.len() * 68);
        json.push('{');
        for (i, (feed, note)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(json, "{comma}\"{feed}\":{}", note.to_wire()).expect("writing to a String cannot fail");
        }
        json.push('}');
        json
    }

    pub(super) fn push(&mut self, feed: FeedId, note: Note) {
        self.0.push((feed, note));
    }
}

impl FromIterator<(FeedId, Note)> for Notes {
    fn from_iter<I: IntoIterator<Item = (FeedId, Note)>>(notes: I) -> Self {
        Self(notes.into_iter().collect())
    }
}

impl IntoIterator for Notes {
    type Item = (FeedId, Note);
    type IntoIter = std::vec::IntoIter<(FeedId, Note)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_table_of_the_protocol_reference_holds() {
        // Origin: version 3 of the JavaScript implementation, executed.
        let table = [
            (-1, Note::REFUSE),
            (0, Note::new(0, true)),
            (1, Note::new(0, false)),
            (2, Note::new(1, true)),
            (3, Note::new(1, false)),
            (12, Note::new(6, true)),
            (450, Note::new(225, true)),
        ];
        for (wire, note) in table {
            assert_eq!(Note::from_wire(wire), note);
            assert_eq!(note.to_wire(), wire);
        }
        assert_eq!(Note::from_wire(-7), Note::REFUSE);
    }

    #[test]
    fn version_2_complements_what_is_not_to_be_pushed() {
        assert_eq!(Note::from_wire_v2(-1), Note::REFUSE);
        assert_eq!(Note::from_wire_v2(0), Note::new(0, true));
        assert_eq!(Note::from_wire_v2(9), Note::new(9, true));
        assert_eq!(Note::from_wire_v2(-10), Note::new(9, false));
    }

    #[test]
    fn a_sequence_too_large_for_the_wire_is_capped() {
        assert_eq!(Note::new(u64::MAX, true).to_wire(), i64::MAX - 1);
        assert_eq!(Note::new(u64::MAX, false).to_wire(), i64::MAX);
    }

    proptest! {
        #[test]
        fn notes_survive_the_wire(sequence in 0..=Note::MAX_SEQUENCE, receive: bool) {
            let note = Note::new(sequence, receive);
            prop_assert_eq!(Note::from_wire(note.to_wire()), note);
        }

        #[test]
        fn any_integer_reads_as_a_note(wire: i64) {
            let note = Note::from_wire(wire);
            prop_assert_eq!(note.to_wire(), wire.max(-1));
            let _ = Note::from_wire_v2(wire);
        }
    }
}
