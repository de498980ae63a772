//! The bytes inside blocks: LEB128 numbers, as differences wherever the numbers ascend.

/// A number pair of a run: what is looked for, and the offset of the message that has it.
pub(crate) type Pair = (u64, u64);

pub(crate) fn put(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7F);
        if bits << shift >> shift != bits {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Ascending numbers.
pub(crate) fn encode_list(numbers: &[u64]) -> Vec<u8> {
    let mut out = Vec::with_capacity(numbers.len() * 3 + 8);
    let mut last = 0;
    for number in numbers {
        put(number - last, &mut out);
        last = *number;
    }
    out
}

pub(crate) fn decode_list(mut bytes: &[u8]) -> Option<Vec<u64>> {
    let mut numbers = Vec::new();
    let mut last = 0u64;
    while !bytes.is_empty() {
        last = last.checked_add(take(&mut bytes)?)?;
        numbers.push(last);
    }
    Some(numbers)
}

/// Adds a pair to a block whose last pair is `last` (zeros at the block's start).
pub(crate) fn put_pair(last: Pair, pair: Pair, out: &mut Vec<u8>) {
    put(pair.0 - last.0, out);
    // Equal keys stand in the order of their offsets.
    put(if pair.0 == last.0 { pair.1 - last.1 } else { pair.1 }, out);
}

pub(crate) fn decode_pairs(mut bytes: &[u8]) -> Option<Vec<Pair>> {
    let mut pairs = Vec::new();
    let mut last: Pair = (0, 0);
    while !bytes.is_empty() {
        let step = take(&mut bytes)?;
        let second = take(&mut bytes)?;
        let offset = if step == 0 { last.1.checked_add(second)? } else { second };
        last = (last.0.checked_add(step)?, offset);
        pairs.push(last);
    }
    Some(pairs)
}

/// A number whose order is the order of the times, negative ones included.
pub(crate) fn time_key(time: f64) -> u64 {
    let bits = time.to_bits();
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lists_come_back(mut numbers: Vec<u64>) {
            numbers.sort_unstable();
            prop_assert_eq!(decode_list(&encode_list(&numbers)), Some(numbers));
        }

        #[test]
        fn pairs_come_back(mut pairs: Vec<(u8, u64)>) {
            pairs.sort_unstable();
            let pairs: Vec<Pair> = pairs.into_iter().map(|(k, v)| (u64::from(k), v)).collect();
            let mut bytes = Vec::new();
            let mut last = (0, 0);
            for pair in &pairs {
                put_pair(last, *pair, &mut bytes);
                last = *pair;
            }
            prop_assert_eq!(decode_pairs(&bytes), Some(pairs));
        }

        #[test]
        fn no_bytes_make_the_decoders_panic(bytes: Vec<u8>) {
            let _ = (decode_list(&bytes), decode_pairs(&bytes));
        }

        #[test]
        fn time_keys_sort_as_times(a: f64, b: f64) {
            prop_assume!(!a.is_nan() && !b.is_nan() && a != b);
            prop_assert_eq!(a < b, time_key(a) < time_key(b));
        }
    }
}
