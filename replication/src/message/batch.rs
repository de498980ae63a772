//! Validation of many messages at once: signatures by one equation for many, on all cores.
//!
//! A [`Verifier`] accepts exactly what [`Unverified::verify`] accepts, message by message, whatever else is in
//! the batch. Only signatures for which one equation gives the same answer as libsodium go into it
//! (`equation` says which and why); the others, among them all of mixed-order keys, are verified singly.
//! If the equation of a batch does not hold, the batch is halved until what is left is verified
//! singly. That takes at worst, with bad signatures everywhere, about twice the time of verifying all
//! singly, and no message is refused for its neighbour's fault.

mod authors;
mod equation;
#[cfg(test)]
mod tests;

use std::borrow::{Borrow, Cow};
use std::collections::{BTreeMap, BTreeSet};

use curve25519_dalek::EdwardsPoint;
use rayon::prelude::*;
use ssb_crypto::{PublicKey, Signature};

use self::authors::Authors;
use self::equation::Term;
use super::{HmacKey, InvalidMessage, Message, Tip, Unverified};
use crate::refs::FeedId;

/// How many messages one core takes at a time; below this, sharing out costs more than it saves.
const PARSED_TOGETHER: usize = 16;
const VERIFIED_TOGETHER: usize = 4;

/// From how many signatures on one equation is faster than each by itself.
const EQUATION_FROM: usize = 64;
/// The most signatures in one equation. More gain little, and take memory.
const EQUATION_MAX: usize = 4096;
/// The fewest signatures that are put into an equation again after one that did not hold. With fewer, halving
/// takes longer than it saves when bad signatures are many.
const RETRIED_FROM: usize = 512;

/// A signature that is claimed to be good.
#[derive(Clone, Debug)]
pub(super) struct Claim<'a> {
    pub(super) author: FeedId,
    pub(super) signature: [u8; 64],
    /// What is signed: the text, or its HMAC.
    pub(super) signed: Cow<'a, [u8]>,
}

impl Claim<'_> {
    /// What libsodium says.
    pub(super) fn is_good(&self) -> bool {
        // The scalar S is below 2^253, or libsodium would refuse it. Its wrapper panics instead.
        if self.signature[63] & 0b1110_0000 != 0 {
            return false;
        }
        PublicKey(self.author.to_bytes()).verify(&Signature(self.signature), &self.signed)
    }
}

/// Reads many messages, on all cores. Results come in the order of `raw`.
pub fn parse_batch<T: AsRef<[u8]> + Sync>(raw: &[T]) -> Vec<Result<Unverified, InvalidMessage>> {
    raw.par_iter().with_min_len(PARSED_TOGETHER).map(|raw| Unverified::parse(raw.as_ref())).collect()
}

/// Verifies messages in batches. Remembers authors' keys, so it is worth keeping.
#[derive(Debug, Default)]
pub struct Verifier {
    authors: Authors,
}

impl Verifier {
    /// One that knows no authors yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Validates many messages of any feeds at once, each against the tip of its feed, which `tip` tells
    /// and which moves on within the batch. Results are those of validating one after the other, in the
    /// order of `messages`.
    pub fn validate_batch(
        &mut self,
        messages: Vec<Unverified>,
        hmac: Option<&HmacKey>,
        tip: impl Fn(&FeedId) -> Option<Tip>,
    ) -> Vec<Result<Message, InvalidMessage>> {
        self.validate_batch_and_show_forks(messages, hmac, tip, |_, _| {})
    }

    /// The same, and shows to `on_fork` each message that is refused with [`InvalidMessage::Fork`], with its place in
    /// `messages`. Nobody has checked its signature.
    pub fn validate_batch_and_show_forks(
        &mut self,
        messages: Vec<Unverified>,
        hmac: Option<&HmacKey>,
        tip: impl Fn(&FeedId) -> Option<Tip>,
        mut on_fork: impl FnMut(usize, Unverified),
    ) -> Vec<Result<Message, InvalidMessage>> {
        // First in the hope that all signatures are good: what fits then is checked, all at once.
        let mut tips = Tips { known: BTreeMap::new(), lookup: &tip };
        let fits: Vec<bool> = messages.iter().map(|message| tips.advance(message).is_ok()).collect();
        let hopeful: Vec<&Unverified> =
            messages.iter().zip(&fits).filter(|(_, fits)| **fits).map(|(m, _)| m).collect();
        let mut verified = self.verify_signatures(&hopeful, hmac).into_iter();

        // Then again with what is known by now. After a bad signature a message may fit that did not before.
        let mut tips = Tips { known: BTreeMap::new(), lookup: &tip };
        let results = messages.into_iter().zip(fits).enumerate().map(|(place, (message, fits))| {
            let verified = if fits { verified.next() } else { None };
            if let Err(why) = tips.check(&message) {
                if matches!(why, InvalidMessage::Fork(_)) {
                    on_fork(place, message);
                }
                return Err(why);
            }
            let good = verified.unwrap_or_else(|| message.is_signed(hmac));
            let author = message.author();
            let message = message.into_message(good)?;
            tips.known.insert(author, Some(message.tip()));
            Ok(message)
        });
        results.collect()
    }

    /// Checks the signatures of many messages. Results come in the order of `messages`; their places in
    /// their feeds are the caller's to check.
    pub fn verify_batch(
        &mut self,
        messages: Vec<Unverified>,
        hmac: Option<&HmacKey>,
    ) -> Vec<Result<Message, InvalidMessage>> {
        let verified = self.verify_signatures(&messages, hmac);
        let results = messages.into_iter().zip(verified);
        results.map(|(message, verified)| message.into_message(verified)).collect()
    }

    /// Whether each signature is good. A message without a signature to check has none that is.
    fn verify_signatures<T: Borrow<Unverified> + Sync>(
        &mut self,
        messages: &[T],
        hmac: Option<&HmacKey>,
    ) -> Vec<bool> {
        let claims = messages.par_iter().enumerate().with_min_len(PARSED_TOGETHER);
        let (which, claims): (Vec<usize>, Vec<Claim<'_>>) =
            claims.filter_map(|(i, message)| Some((i, message.borrow().claim(hmac)?))).unzip();
        let mut verdicts = vec![false; messages.len()];
        for (i, good) in which.into_iter().zip(self.verify(&claims)) {
            verdicts[i] = good;
        }
        verdicts
    }

    /// Whether each claim is true.
    fn verify(&mut self, claims: &[Claim<'_>]) -> Vec<bool> {
        if claims.len() < EQUATION_FROM {
            return claims.par_iter().with_min_len(VERIFIED_TOGETHER).map(Claim::is_good).collect();
        }
        let keys = self.authors.keys(claims.iter().map(|claim| claim.author).collect::<BTreeSet<_>>());
        let fit: Vec<(FeedId, EdwardsPoint)> =
            keys.into_iter().filter_map(|(author, key)| Some((author, key?))).collect();
        let term = |(which, claim): (usize, &Claim<'_>)| {
            let author = fit.binary_search_by_key(&claim.author, |(author, _)| *author).ok()?;
            Term::new(which, claim, author)
        };
        let terms = claims.par_iter().enumerate().with_min_len(PARSED_TOGETHER);
        let mut terms: Vec<Term> = terms.filter_map(term).collect();
        // An author's terms come to one, so they belong together.
        terms.sort_unstable_by_key(|term| (term.author, term.claim));
        let mut is_fit = vec![false; claims.len()];
        terms.iter().for_each(|term| is_fit[term.claim] = true);
        let unfit = (0..claims.len()).filter(|which| !is_fit[*which]).collect();

        let batch = Batch { claims, authors: fit.into_iter().map(|(_, key)| key).collect() };
        let cores = rayon::current_num_threads();
        let (by_equation, singly) = rayon::join(
            || terms.par_chunks(share(terms.len(), cores)).map(|terms| batch.settle(terms, false)).collect(),
            || batch.singly(unfit),
        );
        let by_equation: Vec<Vec<(usize, bool)>> = by_equation;
        let mut verdicts = vec![false; claims.len()];
        for (which, good) in by_equation.into_iter().flatten().chain(singly) {
            verdicts[which] = good;
        }
        verdicts
    }
}

/// How many terms of `all` make an equation, so that each core has as much to do and no equation is small.
fn share(all: usize, cores: usize) -> usize {
    let shares = all.div_ceil(EQUATION_MAX).max(cores.min(all / EQUATION_FROM)).max(1);
    all.div_ceil(shares).max(1)
}

/// The claims of a batch and the authors' keys that its terms are about.
struct Batch<'a> {
    claims: &'a [Claim<'a>],
    authors: Vec<EdwardsPoint>,
}

impl Batch<'_> {
    /// Finds out which terms are of good signatures. `has_bad` is what the caller knows already.
    fn settle(&self, terms: &[Term], has_bad: bool) -> Vec<(usize, bool)> {
        let worth_it = terms.len() >= EQUATION_FROM;
        if worth_it && !has_bad && equation::holds(terms, &self.authors) {
            return terms.iter().map(|term| (term.claim, true)).collect();
        }
        if terms.len() < 2 * RETRIED_FROM {
            return self.singly(terms.iter().map(|term| term.claim).collect());
        }
        let (one, other) = terms.split_at(terms.len() / 2);
        let mut settled = self.settle(one, false);
        let other_has_bad = settled.iter().all(|(_, good)| *good);
        settled.extend(self.settle(other, other_has_bad));
        settled
    }

    fn singly(&self, which: Vec<usize>) -> Vec<(usize, bool)> {
        let shares = which.into_par_iter().with_min_len(VERIFIED_TOGETHER);
        shares.map(|which| (which, self.claims[which].is_good())).collect()
    }
}

/// The tips of feeds while a batch is worked through.
struct Tips<F> {
    known: BTreeMap<FeedId, Option<Tip>>,
    lookup: F,
}

impl<F: Fn(&FeedId) -> Option<Tip>> Tips<F> {
    fn check(&mut self, message: &Unverified) -> Result<(), InvalidMessage> {
        let tip = self.known.entry(message.author()).or_insert_with(|| (self.lookup)(&message.author()));
        message.check(tip.as_ref())
    }

    fn advance(&mut self, message: &Unverified) -> Result<(), InvalidMessage> {
        self.check(message)?;
        self.known.insert(message.author(), message.tip());
        Ok(())
    }
}
