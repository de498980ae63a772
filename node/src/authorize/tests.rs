use super::*;

fn key(n: u8) -> PublicKey {
    PublicKey::from_bytes([n; 32])
}

fn link(direction: Direction, carrier: Carrier) -> LinkInfo {
    LinkInfo { direction, carrier, remote: "test".into(), path: None, mobile: None }
}

fn from(remote: &str) -> LinkInfo {
    LinkInfo {
        direction: Direction::Inbound,
        carrier: Carrier::Net,
        remote: remote.into(),
        path: None,
        mobile: None,
    }
}

/// Our key is 1, 2 is a master, 3 a member, 4 a friend, 5 a friend's friend, 6 blocked, 7 has a grant.
fn access(policy: Policy) -> Arc<Access> {
    let members = [key(3)].into();
    let config = AccessConfig { policy, members, sessions: 8, per_address: 3, ..AccessConfig::default() };
    let mut methods = Methods::default();
    methods.insert(70);
    let grant = Grant { methods, ..Grant::default() };
    let grants = Grants::default().with(key(7), Some(grant)).unwrap();
    let access = Access::new(key(1), BTreeSet::from([key(2)]), config, grants, Arc::default());
    let near = [(key(1), 0), (key(4), 1), (key(5), 2)];
    let reach = access.reach();
    access.set_graph([key(6)].into(), near.into_iter().filter(|(_, hops)| *hops <= reach));
    Arc::new(access)
}

#[test]
fn the_table_of_rights_holds() {
    use Carrier::{Net, Quic, Unix};
    use Direction::{Inbound, Outbound};
    use Rights::{Anonymous, Master};
    let mut granted = Methods::default();
    granted.insert(70);
    assert!(granted.contains(70) && !granted.contains(69) && !granted.contains(Methods::MOST));
    for (peer, direction, carrier, rights) in [
        (key(1), Inbound, Net, Master),
        (key(1), Inbound, Unix, Master),
        (key(2), Inbound, Quic, Master),
        (key(9), Inbound, Net, Anonymous),
        (key(3), Inbound, Net, Anonymous),
        (key(7), Inbound, Net, Rights::Granted(granted)),
        (key(7), Outbound, Net, Anonymous),
        (key(1), Outbound, Net, Anonymous),
        (key(2), Outbound, Quic, Anonymous),
        (key(9), Outbound, Net, Anonymous),
    ] {
        let found = access(Policy::Open).rights(peer, &link(direction, carrier));
        assert_eq!(found, rights, "{peer:?} {direction:?} {carrier:?}");
    }
}

/// For each policy and direction, who gets a session: our own key, a master, a member, a friend, a friend's friend,
/// a blocked one, one with a grant, a stranger.
#[test]
fn the_table_of_sessions_holds() {
    use Direction::{Inbound, Outbound};
    for (policy, direction, expected) in [
        (Policy::Open, Inbound, "yyyyynyy"),
        (Policy::Open, Outbound, "yyyyynyy"),
        (Policy::Hops(1), Inbound, "yyyynnyn"),
        (Policy::Hops(2), Inbound, "yyyyynyn"),
        (Policy::Hops(2), Outbound, "ynyyynyn"),
        (Policy::Members, Inbound, "yyynnnyn"),
        (Policy::Members, Outbound, "nnynnnyn"),
        (Policy::Manual, Inbound, "yyynnnyn"),
        (Policy::Manual, Outbound, "yyyyynyy"),
    ] {
        let access = access(policy);
        let peers = [1, 2, 3, 4, 5, 6, 7, 9].map(key);
        let verdicts = peers.map(|peer| access.admit(peer, &link(direction, Carrier::Quic)));
        let said: String = verdicts.iter().map(|verdict| if verdict.is_ok() { 'y' } else { 'n' }).collect();
        assert_eq!(said, expected, "{policy:?} {direction:?}");
        assert_eq!(verdicts[5], Err(Refused::Blocked));
    }
}

#[test]
fn strangers_leave_places_for_friends_and_members_and_a_full_node_lets_its_owner_in() {
    let access = access(Policy::Open);
    let verdicts = |open: usize| {
        let links: Vec<_> = (0..open).map(|n| from(&format!("net:192.0.2.{n}:5000"))).collect();
        let _seats: Vec<_> = links.iter().map(|link| access.seat(link, Rights::Anonymous)).collect();
        [9, 4, 3, 7, 1].map(|peer| access.admit(key(peer), &from("net:198.51.100.1:1")))
    };
    assert_eq!(verdicts(5), [Ok(()); 5]);
    assert_eq!(verdicts(6), [Err(Refused::Full), Ok(()), Ok(()), Ok(()), Ok(())]);
    let full = Err(Refused::Full);
    assert_eq!(verdicts(8), [full, full, full, full, Ok(())]);
    assert_eq!(verdicts(0), [Ok(()); 5], "who has left takes no place");
}

#[test]
fn one_address_does_not_take_all_places_of_strangers() {
    let access = access(Policy::Open);
    for (three, one_more, other) in [
        ("net:192.0.2.1:", "/ip4/192.0.2.1/udp/9/quic-v1", "net:192.0.2.2:1"),
        ("net:2001:db8::5:", "/ip6/2001:db8::99/tcp/1", "net:2001:db8:0:1::5:1"),
        ("net:[2001:db8::5]:", "net:2001:db8::7:1", "net:[2001:db8:0:1::5]:1"),
        ("net:::ffff:192.0.2.1:", "net:192.0.2.1:2", "net:192.0.2.2:2"),
    ] {
        let links = [1, 2, 3].map(|port| from(&format!("{three}{port}")));
        let _seats = links.each_ref().map(|link| access.seat(link, Rights::Anonymous));
        assert_eq!(access.admit(key(9), &from(one_more)), Err(Refused::Crowded), "{one_more}");
        assert_eq!(access.admit(key(9), &from(other)), Ok(()), "{other}");
        assert_eq!(access.admit(key(4), &from(one_more)), Ok(()), "a friend");
        let relayed = LinkInfo { carrier: Carrier::Relay, ..from(one_more) };
        assert_eq!(access.admit(key(9), &relayed), Ok(()), "somewhere behind a relay");
    }
}

#[test]
fn grants_are_kept_and_a_damaged_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("grants.json");
    // As many methods as there are patterns.
    let methods_of = |patterns: &BTreeSet<String>| {
        let mut methods = Methods::default();
        (0..patterns.len()).for_each(|place| methods.insert(place));
        methods
    };
    let load = || Grants::load(path.clone(), methods_of);
    let config = AccessConfig { policy: Policy::Members, ..AccessConfig::default() };
    let access = Access::new(key(1), BTreeSet::new(), config, load().unwrap(), Arc::default());
    let rights = || access.rights(key(7), &link(Direction::Inbound, Carrier::Net));
    assert!(access.grants().all().is_empty() && rights() == Rights::Anonymous);
    let patterns = BTreeSet::from(["publish".to_owned(), "blobs.*".to_owned()]);
    let grant = Grant { methods: methods_of(&patterns), patterns };
    assert_eq!(access.change_grant(key(7), Some(grant.clone())).unwrap(), None);
    assert_eq!(load().unwrap().all(), &BTreeMap::from([(key(7), grant.clone())]));
    assert_eq!(rights(), Rights::Granted(grant.methods));
    assert_eq!(access.change_grant(key(7), None).unwrap(), Some(grant));
    assert!(load().unwrap().all().is_empty() && rights() == Rights::Anonymous);
    std::fs::write(&path, br#"{"@me": []}"#).unwrap();
    assert_eq!(
        load().unwrap_err().to_string(),
        format!("{} is not a list of grants: not a key: @me; correct or remove it", path.display())
    );
}
