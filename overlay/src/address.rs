//! Multiserver addresses: where a peer can be reached, as SSB writes it down.
//!
//! `net:192.0.2.1:8008~shs:KEY` names a transport (`net:…`) and a transform (`~shs:KEY`, the key the
//! listener must prove); several alternatives are joined by `;` (protocol guide, "Multiserver
//! addresses"). Invites, `pub` messages, `conn.json` and LAN beacons carry them, so every peer can make
//! us parse one: parsing is bounded, and what we cannot dial is kept word for word
//! ([`Endpoint::Other`]) because others may be able to.
//!
//! Our own form is `libp2p:<multiaddr>~shs:KEY`; JS dialers skip a transport they do not know.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use crate::keys::PublicKey;

mod grammar;
use grammar::{Protocol, escape};

/// Longest address list we read, in bytes.
pub const MAX_ADDRESS_LEN: usize = 4096;
/// Most alternatives we read from one list.
pub const MAX_ALTERNATIVES: usize = 16;
/// The port of classic SSB, where an address leaves it out.
pub const DEFAULT_PORT: u16 = 8008;

/// One way to reach a peer, and the key it must prove there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Where.
    pub endpoint: Endpoint,
    /// Whom we expect to find; `None` where the address does not say (`~noauth`).
    pub key: Option<PublicKey>,
}

/// Where a peer listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// Classic TCP; the host is a name or an IP address (no brackets, an IPv6 zone is kept).
    Net {
        /// Name or IP address.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// A socket file on this machine; sessions on it need no handshake.
    Unix(PathBuf),
    /// A libp2p multiaddr, usually ending in `/p2p/<peer id>`.
    Libp2p(String),
    /// A whole alternative that we cannot dial, as written (without a `;`).
    Other(String),
}

impl Endpoint {
    /// Whether it leads through a relay.
    pub fn is_relayed(&self) -> bool {
        matches!(self, Self::Libp2p(multiaddr) if multiaddr.contains("/p2p-circuit"))
    }
}

/// Why a text is not an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseAddressError {
    /// Nothing there.
    #[error("the address is empty")]
    Empty,
    /// Longer than [`MAX_ADDRESS_LEN`].
    #[error("the address is longer than {MAX_ADDRESS_LEN} bytes")]
    TooLong,
    /// More than [`MAX_ALTERNATIVES`].
    #[error("more than {MAX_ALTERNATIVES} alternatives")]
    TooMany,
    /// A character that addresses may not hold.
    #[error("character {0:?} is not allowed in an address")]
    Character(char),
    /// `!` not followed by `!`, `~`, `:` or `;`.
    #[error("`!` must be followed by one of ! ~ : ;")]
    Escape,
    /// Neither `transport:…` nor `host:port:@key.ed25519`.
    #[error("expected transport:… or host:port:@key.ed25519")]
    Name,
    /// Not a port number.
    #[error("expected a port between 1 and 65535")]
    Port,
    /// The key is not 32 bytes of canonical base64.
    #[error("the key after shs: is not 32 bytes in base64")]
    Key,
    /// `unix:` without an absolute path, or `libp2p:` without a multiaddr.
    #[error("expected a path that starts with /")]
    Path,
    /// Several alternatives where one was asked for.
    #[error("expected a single address")]
    NotSingle,
}

impl Address {
    /// An address of a peer whose key is known.
    pub const fn new(endpoint: Endpoint, key: PublicKey) -> Self {
        Self { endpoint, key: Some(key) }
    }

    /// Whether one of our dialers understands this address.
    pub const fn is_dialable(&self) -> bool {
        !matches!(self.endpoint, Endpoint::Other(_))
    }

    fn interpret(text: &str, protocols: &[Protocol]) -> Result<Self, ParseAddressError> {
        let key = grammar::shs_key(protocols)?;
        let endpoint = match protocols {
            [transport, shs] if shs.is_shs_without_seed() => dialable(transport)?,
            [transport, noauth] if transport.name == "unix" && noauth.name == "noauth" => {
                dialable(transport)?
            }
            [transport] if transport.name == "unix" => dialable(transport)?,
            _ => None,
        };
        let endpoint = match endpoint {
            Some(Endpoint::Unix(_)) if key.is_some() => None,
            endpoint => endpoint,
        };
        Ok(Self { endpoint: endpoint.unwrap_or_else(|| Endpoint::Other(text.to_owned())), key })
    }
}

/// The endpoint of a transport that we know; `Ok(None)` for one we do not.
fn dialable(transport: &Protocol) -> Result<Option<Endpoint>, ParseAddressError> {
    match transport.name.as_str() {
        "net" => net(&transport.data).map(Some),
        "unix" => Ok(Some(Endpoint::Unix(PathBuf::from(rooted(&transport.data)?)))),
        "libp2p" => Ok(Some(Endpoint::Libp2p(rooted(&transport.data)?))),
        _ => Ok(None),
    }
}

/// JS writes IPv6 hosts unescaped: the last token is the port, the middle is the host.
fn net(data: &[String]) -> Result<Endpoint, ParseAddressError> {
    let (port, host) = data.split_last().ok_or(ParseAddressError::Port)?;
    let host = host.join(":");
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(&host);
    let host = if host.is_empty() { "localhost" } else { host };
    Ok(Endpoint::Net { host: host.to_owned(), port: parse_port(port)? })
}

fn parse_port(text: &str) -> Result<u16, ParseAddressError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let port = if digits { text.parse().unwrap_or(0) } else { 0 };
    if port == 0 { Err(ParseAddressError::Port) } else { Ok(port) }
}

/// A path or multiaddr may hold `:` unescaped; both start with a slash.
fn rooted(data: &[String]) -> Result<String, ParseAddressError> {
    let path = data.join(":");
    if path.starts_with('/') { Ok(path) } else { Err(ParseAddressError::Path) }
}

/// `host:port:@key.ed25519`, as `gossip.json` and early `pub` messages have it.
fn legacy(text: &str) -> Option<Result<Address, ParseAddressError>> {
    let (rest, key) = text.rsplit_once(':')?;
    let grammatical = text.contains(['~', '!', ';']);
    if grammatical || !key.starts_with('@') {
        return None;
    }
    let key = key.parse::<PublicKey>().map_err(|_| ParseAddressError::Key);
    let (host, port) = rest.rsplit_once(':')?;
    let parts = [host.to_owned(), port.to_owned()];
    Some(key.and_then(|key| Ok(Address::new(net(&parts)?, key))))
}

fn check(text: &str) -> Result<(), ParseAddressError> {
    if text.is_empty() {
        return Err(ParseAddressError::Empty);
    }
    if text.len() > MAX_ADDRESS_LEN { Err(ParseAddressError::TooLong) } else { Ok(()) }
}

impl FromStr for Address {
    type Err = ParseAddressError;

    /// Reads one address. A transport that we know but whose data makes no sense is an error here (in a
    /// list it is kept as [`Endpoint::Other`]); an unknown transport never is.
    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        check(text)?;
        if let Some(address) = legacy(text) {
            return address;
        }
        let alternatives = grammar::split_alternatives(text)?;
        match alternatives.as_slice() {
            [one] => Self::interpret(one, &grammar::parse(one)?),
            _ => Err(ParseAddressError::NotSingle),
        }
    }
}

/// The alternatives of one peer, in its order of preference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses(pub Vec<Address>);

impl Addresses {
    /// The alternatives that we have a dialer for, in order.
    pub fn dialable(&self) -> impl Iterator<Item = &Address> {
        self.0.iter().filter(|address| address.is_dialable())
    }

    /// The key of the first alternative that names one.
    pub fn key(&self) -> Option<PublicKey> {
        self.0.iter().find_map(|address| address.key)
    }
}

impl FromStr for Addresses {
    type Err = ParseAddressError;

    /// Reads `;`-joined alternatives. One that we do not understand does not spoil the others.
    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        check(text)?;
        if let Some(address) = legacy(text) {
            return Ok(Self(vec![address?]));
        }
        let alternatives = grammar::split_alternatives(text)?;
        if alternatives.len() > MAX_ALTERNATIVES {
            return Err(ParseAddressError::TooMany);
        }
        let read = |one: &str| -> Result<Address, ParseAddressError> {
            let protocols = grammar::parse(one)?;
            let opaque = Address { endpoint: Endpoint::Other(one.to_owned()), key: None };
            Ok(Address::interpret(one, &protocols).unwrap_or(opaque))
        };
        alternatives.into_iter().map(read).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(";")?;
            }
            write!(f, "{address}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.endpoint)?;
        match (&self.endpoint, self.key) {
            (Endpoint::Other(_), _) => Ok(()),
            (Endpoint::Unix(_), _) | (Endpoint::Net { .. } | Endpoint::Libp2p(_), None) => {
                f.write_str("~noauth")
            }
            (Endpoint::Net { .. } | Endpoint::Libp2p(_), Some(key)) => {
                write!(f, "~shs:{}", key.to_base64())
            }
        }
    }
}

impl fmt::Display for Endpoint {
    /// The transport part alone. IPv6 is not escaped and its zone is left out, as JS has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net { host, port } => {
                let host = host.split('%').next().unwrap_or_default();
                write!(f, "net:{host}:{port}")
            }
            Self::Unix(path) => write!(f, "unix:{}", escape(&path.to_string_lossy())),
            Self::Libp2p(multiaddr) => write!(f, "libp2p:{}", escape(multiaddr)),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// Where somebody is, for what is counted by address: an IPv4 address, or the /64 that an IPv6 address is in, as one host
/// has all of that.
pub fn place_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=";

    fn key() -> PublicKey {
        PublicKey::from_base64(KEY).unwrap()
    }

    fn net_at(host: &str, port: u16) -> Address {
        Address::new(Endpoint::Net { host: host.to_owned(), port }, key())
    }

    fn parse(text: &str) -> Result<Address, ParseAddressError> {
        text.parse()
    }

    #[test]
    fn a_net_address_names_host_port_and_key() {
        let text = format!("net:192.168.1.5:8008~shs:{KEY}");
        assert_eq!(parse(&text), Ok(net_at("192.168.1.5", 8008)));
        assert_eq!(net_at("192.168.1.5", 8008).to_string(), text);
    }

    #[test]
    fn ipv6_is_read_unescaped_escaped_and_bracketed_and_printed_as_js_prints_it() {
        let plain = format!("net:::1:8008~shs:{KEY}");
        assert_eq!(parse(&plain), Ok(net_at("::1", 8008)));
        assert_eq!(parse(&format!("net:!:!:1:8008~shs:{KEY}")), Ok(net_at("::1", 8008)));
        assert_eq!(parse(&format!("net:[::1]:8008~shs:{KEY}")), Ok(net_at("::1", 8008)));
        assert_eq!(net_at("::1", 8008).to_string(), plain);
    }

    #[test]
    fn a_zone_is_kept_for_dialling_but_not_printed() {
        let address = parse(&format!("net:fe80::1%eth0:8008~shs:{KEY}")).unwrap();
        assert_eq!(address, net_at("fe80::1%eth0", 8008));
        assert_eq!(address.to_string(), format!("net:fe80::1:8008~shs:{KEY}"));
    }

    #[test]
    fn an_empty_host_is_this_machine() {
        assert_eq!(parse(&format!("net::8008~shs:{KEY}")), Ok(net_at("localhost", 8008)));
    }

    #[test]
    fn the_legacy_form_is_a_net_address() {
        assert_eq!(parse(&format!("example.com:8008:@{KEY}.ed25519")), Ok(net_at("example.com", 8008)));
        assert_eq!(parse(&format!("::1:8008:@{KEY}.ed25519")), Ok(net_at("::1", 8008)));
        assert_eq!(parse("example.com:8008:@nonsense"), Err(ParseAddressError::Key));
        assert_eq!(parse(&format!("example.com:0:@{KEY}.ed25519")), Err(ParseAddressError::Port));
    }

    #[test]
    fn what_a_server_prints_for_device_scope_is_read_in_order() {
        // Printed by JS `multiserver.address("device")`.
        let text = format!("net:127.0.0.1:31888~shs:{KEY};ws://127.0.0.1:31889~shs:{KEY};unix:/tmp/s~noauth");
        let all: Addresses = text.parse().unwrap();
        assert_eq!(all.0[0], net_at("127.0.0.1", 31888));
        assert!(!all.0[1].is_dialable());
        assert_eq!(all.0[1].key, Some(key()));
        assert_eq!(all.0[2], Address { endpoint: Endpoint::Unix("/tmp/s".into()), key: None });
        assert_eq!(all.dialable().count(), 2);
        assert_eq!(all.key(), Some(key()));
        assert_eq!(all.to_string(), text);
    }

    #[test]
    fn a_tunnel_is_kept_word_for_word() {
        let text = format!("tunnel:@{KEY}.ed25519:@{KEY}.ed25519~shs:{KEY}");
        let address = parse(&text).unwrap();
        assert_eq!(address, Address { endpoint: Endpoint::Other(text.clone()), key: Some(key()) });
        assert_eq!(address.to_string(), text);
    }

    #[test]
    fn an_invite_is_not_an_address_we_may_dial_as_ourselves() {
        let seed = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
        let text = format!("net:example.com:8008~shs:{KEY}:{seed}");
        let address = parse(&text).unwrap();
        assert!(!address.is_dialable());
        assert_eq!(address.key, Some(key()));
        assert_eq!(address.to_string(), text);
    }

    #[test]
    fn our_libp2p_form_survives_the_grammar_of_js() {
        let multiaddr = "/ip6/fd00::1/udp/9/quic-v1/p2p/12D3KooW";
        let address = Address::new(Endpoint::Libp2p(multiaddr.into()), key());
        let text = format!("libp2p:/ip6/fd00!:!:1/udp/9/quic-v1/p2p/12D3KooW~shs:{KEY}");
        assert_eq!(address.to_string(), text);
        assert_eq!(parse(&text), Ok(address));
    }

    #[test]
    fn one_alternative_that_makes_no_sense_does_not_spoil_the_list() {
        let all: Addresses = format!("net:a:99999~shs:{KEY};net:b:1~shs:{KEY}").parse().unwrap();
        assert!(!all.0[0].is_dialable());
        assert_eq!(all.0[1], net_at("b", 1));
    }

    #[test]
    fn faults_are_told_apart() {
        assert_eq!(parse(""), Err(ParseAddressError::Empty));
        assert_eq!(parse("net:a b:1"), Err(ParseAddressError::Character(' ')));
        assert_eq!(parse("net:a!b:1"), Err(ParseAddressError::Escape));
        assert_eq!(parse("8008"), Err(ParseAddressError::Name));
        assert_eq!(parse(&format!("net:a:99999~shs:{KEY}")), Err(ParseAddressError::Port));
        assert_eq!(parse("net:a:1~shs:AAAA"), Err(ParseAddressError::Key));
        assert_eq!(parse("unix:relative~noauth"), Err(ParseAddressError::Path));
        assert_eq!(parse("unix:/a~noauth;unix:/b~noauth"), Err(ParseAddressError::NotSingle));
        assert_eq!(parse(&"n".repeat(MAX_ADDRESS_LEN + 1)), Err(ParseAddressError::TooLong));
        let many = vec!["unix:/a~noauth"; MAX_ALTERNATIVES + 1].join(";");
        assert_eq!(many.parse::<Addresses>(), Err(ParseAddressError::TooMany));
    }

    #[test]
    fn a_path_that_looks_like_a_legacy_address_is_a_path() {
        let address = Address { endpoint: Endpoint::Unix("/:@".into()), key: None };
        assert_eq!(parse(&address.to_string()), Ok(address));
    }

    fn any_address() -> impl Strategy<Value = Address> {
        let key = any::<[u8; 32]>().prop_map(PublicKey::from_bytes);
        let endpoint = prop_oneof![
            ("[a-z0-9.-]{1,40}", 1..=u16::MAX).prop_map(|(host, port)| Endpoint::Net { host, port }),
            (any::<Ipv6Addr>(), 1..=u16::MAX)
                .prop_map(|(ip, port)| Endpoint::Net { host: ip.to_string(), port }),
            "/[a-z0-9/:!;~]{0,40}".prop_map(Endpoint::Libp2p),
        ];
        let unix = "/[ -~]{0,40}"
            .prop_filter("spaces", |p| !p.contains(' '))
            .prop_map(|p| Address { endpoint: Endpoint::Unix(p.into()), key: None });
        prop_oneof![(endpoint, key).prop_map(|(e, k)| Address::new(e, k)), unix]
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(address in any_address()) {
            prop_assert_eq!(address.to_string().parse::<Address>(), Ok(address));
        }

        #[test]
        fn lists_are_read_back(all in proptest::collection::vec(any_address(), 1..8)) {
            let all = Addresses(all);
            prop_assert_eq!(all.to_string().parse::<Addresses>(), Ok(all));
        }

        #[test]
        fn no_text_makes_the_reader_panic_and_what_it_accepts_prints_stably(text in "\\PC{0,80}|[a-z:~;!@/=.]{0,60}") {
            if let Ok(all) = text.parse::<Addresses>() {
                let printed = all.to_string();
                let again: Addresses = printed.parse().unwrap();
                prop_assert_eq!(again.to_string(), printed);
            }
        }
    }
}
