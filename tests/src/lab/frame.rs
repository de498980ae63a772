//! What a link needs to know of an Ethernet frame, and the checksums that a frame inside one machine lacks.
//!
//! Linux leaves the checksum of a TCP or UDP packet to the network card, and a link between namespaces has
//! none: the packet carries a note instead. A packet socket loses that note, so whoever takes a frame from
//! one link and puts it on another has to write the checksum itself. Pure.

use std::net::Ipv6Addr;

/// Destination, source and type.
pub const ETHERNET_HEADER: usize = 14;

const IPV6_HEADER: usize = 40;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// "More fragments" and the fragment's offset, in the fourth 16-bit word of an IPv4 header.
const FRAGMENT: u16 = 0x3fff;

/// Where in a packet its transport segment is.
struct Segment {
    protocol: u8,
    start: usize,
    end: usize,
    /// The addresses, as they go into the pseudo header.
    addresses: std::ops::Range<usize>,
}

/// Whether a frame carries what hosts send each other, as opposed to what keeps the link itself going
/// (ARP, neighbour discovery, multicast membership).
pub fn is_traffic(frame: &[u8]) -> bool {
    let Some(packet) = frame.get(ETHERNET_HEADER..) else { return false };
    match ether_type(frame) {
        0x0800 => true,
        0x86dd => !is_link_upkeep(packet),
        _ => false,
    }
}

/// Writes the checksum of the TCP or UDP segment in a frame, if there is a whole one.
pub fn complete_checksum(frame: &mut [u8]) {
    let ether_type = ether_type(frame);
    let Some(packet) = frame.get_mut(ETHERNET_HEADER..) else { return };
    let Some(segment) = locate(ether_type, packet) else { return };
    let offset = match segment.protocol {
        TCP => 16,
        UDP => 6,
        _ => return,
    };
    let place = segment.start + offset;
    if place + 2 > segment.end || (segment.protocol == UDP && packet[place..place + 2] == [0, 0]) {
        return;
    }
    packet[place..place + 2].fill(0);
    let length = segment.end - segment.start;
    let mut sum = u64::from(segment.protocol) + length as u64;
    sum += words(&packet[segment.addresses]) + words(&packet[segment.start..segment.end]);
    let checksum = match !fold(sum) {
        // In UDP zero means that there is no checksum.
        0 => 0xffff,
        checksum => checksum,
    };
    packet[place..place + 2].copy_from_slice(&checksum.to_be_bytes());
}

fn ether_type(frame: &[u8]) -> u16 {
    frame.get(12..ETHERNET_HEADER).map_or(0, |field| u16::from_be_bytes([field[0], field[1]]))
}

fn is_link_upkeep(packet: &[u8]) -> bool {
    let Some(header) = packet.get(..IPV6_HEADER) else { return true };
    let to: [u8; 16] = std::array::from_fn(|i| header[24 + i]);
    let discovery = header[6] == ICMPV6 && packet.get(IPV6_HEADER).is_some_and(|t| (133..=137).contains(t));
    discovery || Ipv6Addr::from(to).segments()[0] == 0xff02
}

fn locate(ether_type: u16, packet: &[u8]) -> Option<Segment> {
    let word = |at: usize| packet.get(at..at + 2).map(|field| u16::from_be_bytes([field[0], field[1]]));
    let segment = match ether_type {
        0x0800 => {
            let start = usize::from(packet.first()? & 0x0f) * 4;
            if start < 20 || word(6)? & FRAGMENT != 0 {
                return None;
            }
            Segment { protocol: *packet.get(9)?, start, end: word(2)?.into(), addresses: 12..20 }
        }
        0x86dd => {
            let end = IPV6_HEADER + usize::from(word(4)?);
            Segment { protocol: *packet.get(6)?, start: IPV6_HEADER, end, addresses: 8..40 }
        }
        _ => return None,
    };
    (segment.start <= segment.end && segment.end <= packet.len()).then_some(segment)
}

/// The sum of the 16-bit words, the last one padded with zero.
fn words(bytes: &[u8]) -> u64 {
    let pairs = bytes.chunks(2);
    pairs.map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of an IPv4 frame with `protocol` and `payload` between 10.0.0.1 and 10.0.0.2.
    fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend((20 + payload.len() as u16).to_be_bytes());
        frame.extend([0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend(payload);
        frame
    }

    /// What a receiver computes: the sum over everything, which must be all ones.
    fn receivers_sum(frame: &[u8]) -> u16 {
        let packet = &frame[ETHERNET_HEADER..];
        let segment = locate(ether_type(frame), packet).unwrap();
        let length = (segment.end - segment.start) as u64;
        let pseudo = u64::from(segment.protocol) + length + words(&packet[segment.addresses]);
        fold(pseudo + words(&packet[segment.start..segment.end]))
    }

    #[test]
    fn a_udp_checksum_is_the_one_computed_by_hand() {
        // Ports 1 and 2, length 9, payload 0x41: 0x0a00+1+0x0a00+2+17+9 + 1+2+9+0x4100 = 0x5529.
        let mut frame = v4(UDP, &[0, 1, 0, 2, 0, 9, 0xde, 0xad, 0x41]);
        complete_checksum(&mut frame);
        assert_eq!(frame[40..42], (!0x5529u16).to_be_bytes());
    }

    #[test]
    fn a_receiver_accepts_every_completed_segment() {
        for length in [20, 21, 1400] {
            let segment: Vec<u8> = (0..length).map(|i| (i * 7 + 1) as u8).collect();
            for protocol in [TCP, UDP] {
                let mut frame = v4(protocol, &segment);
                complete_checksum(&mut frame);
                assert_eq!(receivers_sum(&frame), 0xffff);
            }
        }
    }

    #[test]
    fn fragments_other_protocols_and_unsummed_udp_are_left_alone() {
        let mut fragment = v4(UDP, &[1; 30]);
        fragment[20] = 0x20;
        for mut frame in [fragment, v4(1, &[1; 30]), v4(UDP, &[0; 30])] {
            let before = frame.clone();
            complete_checksum(&mut frame);
            assert_eq!(frame, before);
        }
    }

    #[test]
    fn no_frame_however_broken_makes_it_panic() {
        for ether_type in [[0x08, 0x00], [0x86, 0xdd], [0x08, 0x06]] {
            for filler in [0x00, 0x06, 0x11, 0x45, 0xff] {
                let whole: Vec<u8> = [0; 12].into_iter().chain(ether_type).chain([filler; 70]).collect();
                for length in 0..whole.len() {
                    let mut frame = whole[..length].to_vec();
                    complete_checksum(&mut frame);
                    is_traffic(&frame);
                }
            }
        }
    }

    #[test]
    fn arp_and_neighbour_discovery_are_no_traffic() {
        let mut arp = vec![0; 42];
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        let mut solicitation = vec![0; 80];
        solicitation[12..14].copy_from_slice(&[0x86, 0xdd]);
        solicitation[20] = ICMPV6;
        solicitation[54] = 135;
        let mut echo = solicitation.clone();
        echo[54] = 128;
        assert!(!is_traffic(&arp));
        assert!(!is_traffic(&solicitation));
        assert!(is_traffic(&echo));
        assert!(is_traffic(&v4(UDP, &[0; 8])));
    }
}
