//! Batches against libsodium's answer for each signature by itself.
//!
//! Signatures are made here from points, so that they can be odd in every way that the equation could
//! overlook.

use curve25519_dalek::constants::EIGHT_TORSION;
use curve25519_dalek::{EdwardsPoint, Scalar};
use proptest::prelude::*;
use sha2::{Digest, Sha512};
use ssb_crypto::Keypair;

use super::*;
use crate::message::{sign, validate};

/// Order 2, 4 and 8.
const TORSIONS: [usize; 3] = [4, 2, 1];

/// A key with whatever else is added to it.
#[derive(Clone, Copy)]
struct Author {
    secret: Scalar,
    key: [u8; 32],
}

fn scalar(seed: &str) -> Scalar {
    Scalar::from_bytes_mod_order_wide(&Sha512::digest(seed).into())
}

fn author(seed: &str, torsion: usize) -> Author {
    let secret = scalar(seed);
    Author { secret, key: (EdwardsPoint::mul_base(&secret) + EIGHT_TORSION[torsion]).compress().to_bytes() }
}

fn challenge(r: &[u8; 32], key: &[u8; 32], text: &[u8]) -> Scalar {
    Scalar::from_bytes_mod_order_wide(
        &Sha512::new().chain_update(r).chain_update(key).chain_update(text).finalize().into(),
    )
}

fn claim(key: [u8; 32], r: [u8; 32], s: [u8; 32], text: &str) -> Claim<'static> {
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&r);
    signature[32..].copy_from_slice(&s);
    Claim { author: FeedId::from_bytes(key), signature, signed: Cow::Owned(text.as_bytes().to_vec()) }
}

/// Signed as usual, but with `torsion` added to R.
fn signed(author: Author, text: &str, torsion: usize) -> Claim<'static> {
    let nonce = scalar(&format!("nonce of {text}"));
    let r = (EdwardsPoint::mul_base(&nonce) + EIGHT_TORSION[torsion]).compress().to_bytes();
    signed_with(author, text, nonce, r)
}

fn signed_with(author: Author, text: &str, nonce: Scalar, r: [u8; 32]) -> Claim<'static> {
    let s = nonce + challenge(&r, &author.key, text.as_bytes()) * author.secret;
    claim(author.key, r, s.to_bytes(), text)
}

/// S with something added, without reduction.
fn with_s_plus(good: &Claim<'_>, add: &[u8; 32]) -> Claim<'static> {
    let mut claim = Claim { signed: Cow::Owned(good.signed.to_vec()), ..*good };
    let mut carry = 0;
    for (byte, add) in claim.signature[32..].iter_mut().zip(add) {
        let sum = u16::from(*byte) + u16::from(*add) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    claim
}

/// L, which no scalar can be.
fn order() -> [u8; 32] {
    let mut bytes = (-Scalar::ONE).to_bytes();
    bytes[0] += 1;
    bytes
}

/// The encodings of points of small order, those that are not canonical too.
fn small_order_encodings() -> Vec<[u8; 32]> {
    let mut encodings: Vec<_> = EIGHT_TORSION.iter().map(|point| point.compress().to_bytes()).collect();
    for low in [0xec, 0xed, 0xee] {
        let mut bytes = [0xff; 32];
        bytes[0] = low;
        encodings.push(bytes);
        bytes[31] = 0x7f;
        encodings.push(bytes);
    }
    let mut minus_zero = [0; 32];
    (minus_zero[0], minus_zero[31]) = (1, 0x80);
    encodings.extend([minus_zero]);
    encodings
}

/// Encodings whose y is not below the prime, or that are of no point.
fn odd_encodings() -> Vec<[u8; 32]> {
    let mut bytes = [0xff; 32];
    let mut odd = Vec::new();
    for low in 0xe8..=0xff {
        for last in [0x7f, 0xff] {
            (bytes[0], bytes[31]) = (low, last);
            odd.push(bytes);
        }
    }
    odd.extend((2_u8..8).map(|low| std::array::from_fn(|i| if i == 0 { low } else { 0 })));
    odd
}

struct Pool {
    good: Vec<Claim<'static>>,
    odd: Vec<Claim<'static>>,
}

/// Good signatures of ordinary keys, and odd ones.
fn pool() -> Pool {
    ssb_crypto::sodium::init().unwrap();
    let authors: Vec<_> = (0..5).map(|n| author(&format!("author {n}"), 0)).collect();
    let good: Vec<_> = (0..60).map(|n| signed(authors[n * n % 5], &format!("text {n}"), 0)).collect();
    let mut odd = Vec::new();
    for (n, good) in good.iter().enumerate().take(10) {
        odd.push(with_s_plus(good, &order()));
        odd.push(with_s_plus(good, &[0xff; 32]));
        odd.push(with_s_plus(good, &Scalar::ONE.to_bytes()));
        odd.push(Claim { signed: Cow::Borrowed(b"another text"), ..*good });
        odd.push(Claim { author: FeedId::from_bytes(authors[n % 5].key), ..good.clone() });
        let mut flipped = good.clone();
        flipped.signature[n * 6] ^= 1 << (n % 8);
        odd.push(flipped);
    }
    for torsion in TORSIONS {
        for n in 0..12 {
            let text = format!("torsion {torsion} {n}");
            odd.push(signed(authors[n % 2], &text, torsion));
            // Libsodium takes those of them in which what h·A adds is nothing, or what R adds.
            let mixed = author("mixed", torsion);
            odd.push(signed(mixed, &text, 0));
            odd.extend(TORSIONS.map(|on_r| signed(mixed, &format!("{text} {on_r}"), on_r)));
        }
    }
    for (n, bytes) in small_order_encodings().into_iter().chain(odd_encodings()).enumerate() {
        let text = format!("odd encoding {n}");
        odd.push(signed_with(authors[n % 5], &text, Scalar::ZERO, bytes));
        let secretless = Author { secret: Scalar::ZERO, key: bytes };
        odd.push(signed(secretless, &text, 0));
        odd.push(signed_with(secretless, &text, Scalar::ZERO, bytes));
    }
    Pool { good, odd }
}

/// Picks one of `all` by a seed's next number.
fn pick<'a, T>(seed: &mut u64, all: &'a [T]) -> &'a T {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    &all[usize::try_from(*seed % all.len() as u64).unwrap()]
}

/// A batch of `size` of which about one in `odd_in` is odd.
fn mix(pool: &Pool, seed: u64, size: usize, odd_in: usize) -> Vec<Claim<'static>> {
    let mut seed = seed | 1;
    let kinds: Vec<bool> = (0..odd_in).map(|n| n == 0).collect();
    let one = |_| {
        let from = if *pick(&mut seed, &kinds) { &pool.odd } else { &pool.good };
        pick(&mut seed, from).clone()
    };
    (0..size).map(one).collect()
}

fn singly(claims: &[Claim<'_>]) -> Vec<bool> {
    claims.iter().map(Claim::is_good).collect()
}

#[test]
fn what_is_good_and_odd_is_so_to_libsodium() {
    let pool = pool();
    assert!(singly(&pool.good).into_iter().all(|good| good));
    let accepted: Vec<_> = pool.odd.iter().filter(|claim| claim.is_good()).collect();
    // Mixed-order keys, with and without torsion on R, whose signatures happen to fit.
    let fits = |claim: &&&Claim<'_>| equation::key(&claim.author.to_bytes()).is_none();
    assert!(accepted.len() > 10, "{}", accepted.len());
    assert!(pool.odd.len() > 200);
    // The others are signatures that a changed author leaves as they were.
    let others = accepted.iter().filter(|claim| !fits(claim)).count();
    assert!(others <= 10, "{others}");
    assert!(accepted.len() - others > 10);
}

#[test]
fn batches_of_all_sizes_give_what_one_by_one_gives() {
    let pool = pool();
    let around =
        [EQUATION_FROM - 1, EQUATION_FROM, EQUATION_FROM + 1, 2 * EQUATION_FROM, 2 * EQUATION_FROM + 1];
    let mut verifier = Verifier::new();
    for size in [0, 1, 2, 5].into_iter().chain(around).chain([300, 1000]) {
        for odd_in in [1, 2, 10, 100, 1000] {
            let batch = mix(&pool, (size * 7 + odd_in) as u64, size, odd_in);
            assert_eq!(verifier.verify(&batch), singly(&batch), "{size} {odd_in}");
        }
    }
}

/// Large enough to be halved again and again.
#[test]
fn few_bad_signatures_in_a_large_batch_are_found() {
    let pool = pool();
    let one_core = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let all_good: Vec<_> = pool.good.iter().cycle().take(EQUATION_MAX + 9).cloned().collect();
    let size = EQUATION_MAX;
    for bad in [vec![], vec![0], vec![size - 1], vec![size / 2 - 1, size / 2], vec![7, 2000, 4000]] {
        let mut batch = all_good.clone();
        bad.iter().for_each(|at| batch[*at].signature[40] ^= 1);
        let mut expected = vec![true; batch.len()];
        bad.iter().for_each(|at| expected[*at] = false);
        assert_eq!(one_core.install(|| Verifier::new().verify(&batch)), expected);
        assert_eq!(Verifier::new().verify(&batch), expected);
        assert_eq!(one_core.install(|| Verifier::new().verify(&batch[..size])), expected[..size]);
    }
}

/// Each by itself among good ones, so that nothing else makes the equation fail.
#[test]
fn one_odd_signature_is_found_among_good_ones() {
    let pool = pool();
    let mut verifier = Verifier::new();
    for (n, odd) in pool.odd.iter().enumerate() {
        let mut seed = n as u64 + 1;
        let good = (0..EQUATION_FROM + n % 20).map(|_| pick(&mut seed, &pool.good).clone());
        let mut batch: Vec<_> = good.collect();
        let at = n % batch.len();
        batch[at] = odd.clone();
        let mut expected = vec![true; batch.len()];
        expected[at] = odd.is_good();
        assert_eq!(verifier.verify(&batch), expected, "odd signature {n}");
    }
}

/// Faults that add up to nothing if all coefficients are the same. Nothing else is wrong, so that the
/// equation is what must notice it.
#[test]
fn faults_do_not_cancel_each_other_out() {
    let pool = pool();
    let author = author("author 1", 0);
    let mut verifier = Verifier::new();
    for n in 0..20 {
        let (one, other) = (signed(author, &format!("one {n}"), 0), signed(author, &format!("two {n}"), 0));
        let off_by_one = [with_s(&one, |s| s + Scalar::ONE), with_s(&other, |s| s - Scalar::ONE)];
        let torsion = TORSIONS[n % 3];
        let twisted =
            [torsion, 8 - torsion].map(|torsion| signed(author, &format!("{n} {torsion}"), torsion));
        for pair in [off_by_one, twisted] {
            let good = pool.good.iter().cycle().skip(n).take(EQUATION_FROM).cloned();
            let batch: Vec<_> = good.chain(pair).collect();
            let mut expected = vec![true; EQUATION_FROM];
            expected.extend([false; 2]);
            assert_eq!(singly(&batch), expected);
            assert_eq!(verifier.verify(&batch), expected);
        }
    }
}

fn with_s(claim: &Claim<'static>, change: impl Fn(Scalar) -> Scalar) -> Claim<'static> {
    let mut claim = claim.clone();
    let s = Scalar::from_canonical_bytes(claim.signature[32..].try_into().unwrap()).unwrap();
    claim.signature[32..].copy_from_slice(&change(s).to_bytes());
    claim
}

/// Nothing but torsion is wrong, and R's of order 2 pass an equation without further tests half of the time.
#[test]
fn torsion_on_r_is_refused_every_time() {
    let pool = pool();
    let author = author("author 2", 0);
    for n in 0..100 {
        let mut terms = pool.good.clone();
        terms.resize(EQUATION_FROM, pool.good[0].clone());
        terms[n % EQUATION_FROM] = signed(author, &format!("text {n}"), TORSIONS[n % 3 * (n % 2)]);
        let verdicts = Verifier::new().verify(&terms);
        assert_eq!(verdicts.iter().position(|good| !good), Some(n % EQUATION_FROM));
    }
}

#[test]
fn shares_are_even_and_neither_small_nor_huge() {
    assert_eq!((share(0, 2), share(1, 2), share(EQUATION_FROM, 4)), (1, 1, EQUATION_FROM));
    assert_eq!((share(1000, 2), share(4096, 2), share(4097, 1)), (500, 2048, 2049));
    for all in [64, 100, 127, 128, 129, 1000, 10_000, 100_000] {
        for cores in [1, 2, 3, 16, 64] {
            let share = share(all, cores);
            assert!((EQUATION_FROM..=EQUATION_MAX).contains(&share), "{all} {cores} {share}");
        }
    }
}

fn feed(seed: u8, count: usize, hmac: Option<&HmacKey>) -> Vec<Message> {
    ssb_crypto::sodium::init().unwrap();
    let keypair = Keypair::from_seed(&[seed; 32]).unwrap();
    let mut tip = None;
    let next = |n: usize| {
        let content = format!("{{\"type\":\"post\",\"text\":\"{} {n} ✓\"}}", "ahoy ".repeat(n % 50));
        let message = sign(&keypair, hmac, tip.as_ref(), n as f64, content.as_bytes()).unwrap();
        tip = Some(message.tip());
        message
    };
    (0..count).map(next).collect()
}

/// The message with another one's signature.
fn forged(message: &Message, other: &Message) -> Unverified {
    let parts = |message: &Message| {
        let text = std::str::from_utf8(message.value_bytes()).unwrap().to_owned();
        let at = text.rfind("\"signature\":").unwrap();
        (text[..at].to_owned(), text[at..].to_owned())
    };
    Unverified::parse((parts(message).0 + &parts(other).1).as_bytes()).unwrap()
}

fn validated_one_by_one(
    batch: &[Unverified],
    hmac: Option<&HmacKey>,
) -> Vec<Result<Message, InvalidMessage>> {
    let mut tips = BTreeMap::new();
    let one = |message: &Unverified| {
        message.check(tips.get(&message.author()))?;
        let message = message.clone().verify(hmac)?;
        tips.insert(message.author(), message.tip());
        Ok(message)
    };
    batch.iter().map(one).collect()
}

#[test]
fn feeds_with_forged_messages_give_what_one_by_one_gives() {
    for hmac in [None, Some(HmacKey::from_bytes([3; 32]))] {
        let hmac = hmac.as_ref();
        let feeds: Vec<_> = (1..=6).map(|seed| feed(seed, 60, hmac)).collect();
        let mut verifier = Verifier::new();
        for every in [usize::MAX, 359, 100, 30, 3, 1] {
            let interleaved = (0..60).flat_map(|n| feeds.iter().map(move |feed| (n, feed)));
            let with_forgeries = interleaved.enumerate().flat_map(|(i, (n, feed))| {
                let good = Unverified::parse(feed[n].value_bytes()).unwrap();
                // The good one follows its forgery, or else the feed would end.
                let forgery = (i % every == every - 1).then(|| forged(&feed[n], &feed[(n + 1) % 60]));
                forgery.into_iter().chain([good])
            });
            let batch: Vec<_> = with_forgeries.collect();
            let expected = validated_one_by_one(&batch, hmac);
            let refused = expected.iter().filter(|result| result.is_err()).count();
            assert_eq!(refused, 360 / every);
            assert_eq!(verifier.validate_batch(batch.clone(), hmac, |_| None), expected);
            assert_eq!(verifier.verify_batch(batch, hmac), expected);
        }
    }
}

#[test]
fn a_key_of_another_network_makes_all_of_a_batch_bad() {
    let messages = feed(1, 2 * EQUATION_FROM, None);
    let batch: Vec<_> = messages.iter().map(|m| Unverified::parse(m.value_bytes()).unwrap()).collect();
    let key = HmacKey::from_bytes([3; 32]);
    let results = Verifier::new().verify_batch(batch, Some(&key));
    assert!(results.into_iter().all(|result| result == Err(InvalidMessage::Signature)));
    assert_eq!(validate(messages[0].value_bytes(), None, None).as_ref(), Ok(&messages[0]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn any_mix_gives_what_one_by_one_gives(seed in any::<u64>(), size in 0_usize..400, odd_in in 1_usize..60) {
        let batch = mix(&pool(), seed, size, odd_in);
        prop_assert_eq!(Verifier::new().verify(&batch), singly(&batch));
    }
}
