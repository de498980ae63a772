//! Proof that a feed is forked: two signed messages of one author that cannot both be in one feed.
//!
//! An author who publishes from two devices, or from a restored backup, signs two messages for one place. Peers
//! that hold one branch can never take the other, so the first seen stays and the proof says why.

use super::Message;
use crate::refs::FeedId;

/// Two messages of one feed that contradict each other. There is no other way to make one, and both are verified,
/// so it convinces everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fork {
    held: Message,
    refused: Message,
}

impl Fork {
    /// The proof that `refused` makes together with what we hold; `None` if the two do not contradict each other.
    pub fn new(held: Message, refused: Message) -> Option<Self> {
        let same_place = held.sequence() == refused.sequence() && held.id() != refused.id();
        let next = refused.sequence() == held.sequence() + 1 && refused.previous() != Some(held.id());
        (held.author() == refused.author() && (same_place || next)).then_some(Self { held, refused })
    }

    /// Whose feed is forked.
    pub fn feed(&self) -> FeedId {
        self.held.author()
    }

    /// The message of the branch that is kept: at the place of the refused one, or the one that it should follow.
    pub fn held(&self) -> &Message {
        &self.held
    }

    /// The message of the other branch.
    pub fn refused(&self) -> &Message {
        &self.refused
    }
}

#[cfg(test)]
mod tests {
    use ssb_crypto::Keypair;

    use super::*;
    use crate::message::{Tip, sign};

    #[test]
    fn only_contradictions_prove_a_fork() {
        ssb_crypto::sodium::init().unwrap();
        let (author, other) = (Keypair::generate(), Keypair::generate());
        let write = |by: &Keypair, tip: Option<Tip>, text: &str| {
            let content = format!(r#"{{"type":"post","text":"{text}"}}"#);
            sign(by, None, tip.as_ref(), 1.0, content.as_bytes()).unwrap()
        };
        let first = write(&author, None, "first");
        let second = write(&author, Some(first.tip()), "second");
        let third = write(&author, Some(second.tip()), "third");
        let other_first = write(&author, None, "other first");
        let other_second = write(&author, Some(other_first.tip()), "other second");
        let other_third = write(&author, Some(other_second.tip()), "other third");

        let proves = |held: &Message, refused: &Message| Fork::new(held.clone(), refused.clone()).is_some();
        assert!(proves(&first, &other_first), "two at one place");
        assert!(proves(&second, &other_third), "the next of another");
        assert!(!proves(&first, &first));
        assert!(!proves(&first, &second));
        assert!(!proves(&first, &third));
        assert!(!proves(&first, &other_third), "too far away to say");
        assert!(!proves(&first, &write(&other, None, "somebody else's")));
    }
}
