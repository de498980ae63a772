//! One equation for many signatures.
//!
//! A signature (R, S) of a message by the key A is good, to libsodium 1.0.18, if
//!
//! 1. S is below the group's order L,
//! 2. neither R nor A encodes a point of small order, and A's y coordinate is below the field's prime,
//! 3. the bytes of R are the encoding of S·B − h·A, where B is the base point and h = SHA-512(R, A, message)
//!    mod L. Nothing is multiplied by the cofactor, and R is compared as bytes.
//!
//! If A is in the group that B generates, so is S·B − h·A; then 3. says that R is the canonical encoding of
//! a point in that group and that S·B − h·A − R = 0. So for terms with such an A and a canonical R, all of
//! these equations hold together if and (up to chance) only if
//!
//! - Σ zᵢ·(Sᵢ·B − hᵢ·Aᵢ − Rᵢ) = 0 for random zᵢ of 128 bits. The terms of one A come to one, with the sum of
//!   its zᵢ·hᵢ, which is where a feed's batch gains most. Within B's group, terms that are not all 0 give
//!   0 with a chance of 2⁻¹²⁸; outside of it they can cancel more often, so
//! - no Rᵢ has a part outside of B's group: 40 sums, each of a random half of all Rᵢ, lie in the group. If one
//!   Rᵢ does not, then with whatever the others add up to, each sum is in the group either with it or
//!   without it, never both; so all 40 are with a chance of at most 2⁻⁴⁰.
//!
//! What is good one by one always satisfies the equation: with the terms that [`Term::new`] takes nothing is
//! left to chance in that direction. All randomness comes from the operating system, anew for each
//! evaluation, so nobody can choose signatures that suit it. Everything here is public, so nothing
//! has to take constant time.

use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::traits::{Identity, VartimeMultiscalarMul};
use curve25519_dalek::{EdwardsPoint, Scalar};
use sha2::{Digest, Sha512};

use super::Claim;

/// The bytes of a coefficient zᵢ.
const COEFFICIENT: usize = 16;
/// How many sums of points are tested for lying in the base point's group, and the bytes that choose them.
const SUMS: usize = 40;
const CHOICE: usize = SUMS / 8;

/// The y coordinates of the eight points of small order.
const SMALL_ORDER_Y: [[u8; 32]; 5] = [
    [0; 32],
    first_and_last(0x01, 0, 0),
    first_and_last(0xec, 0xff, 0x7f),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5,
        0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a,
        0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

const fn first_and_last(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut bytes = [middle; 32];
    bytes[0] = first;
    bytes[31] = last;
    bytes
}

/// What a signature adds to the equation.
#[derive(Debug)]
pub(super) struct Term {
    /// Which of the claims it is.
    pub(super) claim: usize,
    /// Which of the authors' keys it is to be checked with.
    pub(super) author: usize,
    r: EdwardsPoint,
    s: Scalar,
    challenge: Scalar,
}

impl Term {
    /// Takes a signature apart, unless the equation cannot tell whether it is good. Most of those are bad.
    pub(super) fn new(which: usize, claim: &Claim<'_>, author: usize) -> Option<Self> {
        let (r_bytes, s_bytes) = claim.signature.split_first_chunk::<32>()?;
        let s = Option::from(Scalar::from_canonical_bytes(s_bytes.try_into().ok()?))?;
        let r = point(r_bytes)?;
        let hash = Sha512::new().chain_update(r_bytes).chain_update(claim.author.to_bytes());
        let hash = hash.chain_update(&claim.signed).finalize();
        let challenge = Scalar::from_bytes_mod_order_wide(&hash.into());
        Some(Self { claim: which, author, r, s, challenge })
    }
}

/// The point that is encoded, if that is its only encoding and it is not of small order.
fn point(bytes: &[u8; 32]) -> Option<EdwardsPoint> {
    let mut y = *bytes;
    y[31] &= 0x7f;
    // The prime is 2^255 - 19.
    let is_reduced = y[0] < 0xed || y[1..31].iter().any(|byte| *byte != 0xff) || y[31] != 0x7f;
    // The only x without a sign is 0, at points of small order.
    if !is_reduced || SMALL_ORDER_Y.contains(&y) {
        return None;
    }
    CompressedEdwardsY(*bytes).decompress()
}

/// The point of an author's key, if it is in the base point's group and so fit for the equation.
pub(super) fn key(bytes: &[u8; 32]) -> Option<EdwardsPoint> {
    point(bytes).filter(is_torsion_free)
}

/// Whether all signatures are good: true is right up to a chance of 2⁻⁴⁰, false always is unless the operating
/// system gives no randomness. Terms of one author are best next to each other.
pub(super) fn holds(terms: &[Term], authors: &[EdwardsPoint]) -> bool {
    let mut coefficients = vec![[0; COEFFICIENT]; terms.len()];
    let mut choices = vec![[0; CHOICE]; terms.len()];
    if getrandom::fill(coefficients.as_flattened_mut()).is_err() {
        return false;
    }
    if !equation_holds(terms, authors, &coefficients) {
        return false;
    }
    getrandom::fill(choices.as_flattened_mut()).is_ok() && are_torsion_free(terms, &choices)
}

fn equation_holds(terms: &[Term], authors: &[EdwardsPoint], coefficients: &[[u8; COEFFICIENT]]) -> bool {
    let mut scalars = Vec::with_capacity(2 * terms.len() + 1);
    let mut points = Vec::with_capacity(2 * terms.len() + 1);
    // Signs are turned about: Σ zR + Σ (zh)A − (Σ zS)B.
    let mut base = Scalar::ZERO;
    let mut rest = coefficients;
    for of_author in terms.chunk_by(|one, other| one.author == other.author) {
        let mut key = Scalar::ZERO;
        let (coefficients, others) = rest.split_at(of_author.len());
        rest = others;
        for (term, coefficient) in of_author.iter().zip(coefficients) {
            let z = Scalar::from(u128::from_le_bytes(*coefficient));
            base -= z * term.s;
            key += z * term.challenge;
            scalars.push(z);
            points.push(term.r);
        }
        scalars.push(key);
        points.push(authors[of_author[0].author]);
    }
    scalars.push(base);
    points.push(ED25519_BASEPOINT_POINT);
    EdwardsPoint::vartime_multiscalar_mul(&scalars, &points) == EdwardsPoint::identity()
}

/// Whether all R are in the base point's group. `choices` says for each in which of the sums it is.
fn are_torsion_free(terms: &[Term], choices: &[[u8; CHOICE]]) -> bool {
    // Points are first put together by a part of their choices, then what is in a sum is added up. Longer
    // parts are fewer additions a point, but more afterwards.
    let (parts, bits) = if terms.len() < LONG_PARTS_FROM { (SUMS / 5, 5) } else { (SUMS / 8, 8) };
    let choice = |bytes: &[u8; CHOICE]| bytes.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    (0..parts).all(|part| {
        let mut same = vec![EdwardsPoint::identity(); 1 << bits];
        for (term, bytes) in terms.iter().zip(choices) {
            let chosen = usize::try_from(choice(bytes) >> (part * bits) & ((1 << bits) - 1));
            same[chosen.expect("a few bits")] += term.r;
        }
        sums(same).iter().all(is_torsion_free)
    })
}

/// From how many points on parts of eight bits take fewer additions than parts of five.
const LONG_PARTS_FROM: usize = 700;

/// For each bit, the sum of the points at the places whose number has it set.
fn sums(mut points: Vec<EdwardsPoint>) -> Vec<EdwardsPoint> {
    let mut sums = Vec::new();
    while points.len() > 1 {
        let with_top_bit = points.split_off(points.len() / 2);
        sums.push(with_top_bit.iter().sum());
        for (without, with) in points.iter_mut().zip(with_top_bit) {
            *without += with;
        }
    }
    sums
}

/// Whether L·P = 0, as (L−1)·P = −P: scalars end at L−1.
fn is_torsion_free(point: &EdwardsPoint) -> bool {
    let most = -Scalar::ONE;
    EdwardsPoint::vartime_double_scalar_mul_basepoint(&most, point, &Scalar::ZERO) == -point
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::EIGHT_TORSION;

    use super::*;

    #[test]
    fn the_points_of_small_order_are_all_listed_and_nothing_else() {
        let mut ys = EIGHT_TORSION.map(|point| {
            let mut y = point.compress().to_bytes();
            y[31] &= 0x7f;
            y
        });
        ys.sort_unstable();
        let mut listed = SMALL_ORDER_Y;
        listed.sort_unstable();
        let mut distinct = ys.to_vec();
        distinct.dedup();
        assert_eq!(distinct, listed);
    }

    #[test]
    fn an_encoding_that_is_not_the_points_own_is_refused() {
        let mut taken = 0;
        for low in 0..=u8::MAX {
            for sign in [0x7f, 0xff] {
                let bytes = first_and_last(low, 0xff, sign);
                let own = CompressedEdwardsY(bytes).decompress().filter(|p| p.compress().to_bytes() == bytes);
                let expected = own.filter(|point| !point.is_small_order());
                assert_eq!(point(&bytes), expected, "{low} {sign}");
                taken += usize::from(expected.is_some());
            }
        }
        assert!(taken > 100);
        assert_eq!(point(&first_and_last(1, 0, 0x80)), None);
    }

    #[test]
    fn a_point_outside_of_the_group_is_told_by_its_multiple() {
        let point = EdwardsPoint::mul_base(&Scalar::from(12_345_u64));
        for torsion in EIGHT_TORSION {
            assert_eq!(is_torsion_free(&(point + torsion)), torsion == EdwardsPoint::identity());
            assert_eq!((point + torsion).is_torsion_free(), torsion == EdwardsPoint::identity());
        }
    }

    #[test]
    fn sums_are_those_of_the_places_with_the_bit() {
        for bits in [1_u32, 5, 8] {
            let points: Vec<_> =
                (0..1_u64 << bits).map(|n| EdwardsPoint::mul_base(&Scalar::from(n * n + 7))).collect();
            let expected = (0..bits).rev().map(|bit| {
                let chosen = points.iter().enumerate().filter(|(place, _)| place >> bit & 1 == 1);
                chosen.map(|(_, point)| point).sum::<EdwardsPoint>()
            });
            assert_eq!(sums(points.clone()), expected.collect::<Vec<_>>());
        }
    }

    /// With order 2, each of the sums notices it with a chance of one half only.
    #[test]
    fn torsion_on_any_r_is_noticed_whatever_the_others_have() {
        let term = |n: u64, torsion: usize| Term {
            claim: 0,
            author: 0,
            r: EdwardsPoint::mul_base(&Scalar::from(n + 1)) + EIGHT_TORSION[torsion],
            s: Scalar::ZERO,
            challenge: Scalar::ZERO,
        };
        for count in [1, 2, 70, 800] {
            let mut choices = vec![[0; CHOICE]; count];
            let mut terms: Vec<_> = (0..count as u64).map(|n| term(n, 0)).collect();
            for (with, torsion) in [(0, 0), (1, 4), (1, 2), (1, 1), (2, 4), (count, 4), (count, 6)] {
                for (n, one) in terms.iter_mut().enumerate() {
                    *one = term(n as u64, if n < with { torsion } else { 0 });
                }
                getrandom::fill(choices.as_flattened_mut()).unwrap();
                assert_eq!(are_torsion_free(&terms, &choices), torsion == 0, "{count} {with} {torsion}");
            }
        }
    }
}
