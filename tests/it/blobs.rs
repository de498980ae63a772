//! Blobs between real peers: ours and other people's, over one hop and three; what hostile ones send; and what browsers
//! and the owner's programs see of it.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use bytes::BytesMut;
use hawsepipe_overlay::boxstream::{BoxKey, Sealer};
use hawsepipe_overlay::keys::NetworkKey;
use hawsepipe_replication::refs::BlobId;
use hawsepipe_tests::MAIN_NETWORK;
use hawsepipe_tests::hoarder::{Conduct, Hoarder};
use hawsepipe_tests::js::{Foreign, Options, Stack};
use hawsepipe_tests::lab::{self, Host, Lab};
use hawsepipe_tests::peer::{Peer, Setup};
use hawsepipe_tests::rogue::{END, Rogue, STREAM, identity};
use hawsepipe_tests::wait::{self, SOON};
use serde_json::{Value, json};

/// Several packets and the beginning of one more.
const LARGE: usize = 300_000;
/// How long a fetch may take that meets somebody who stalls: the node gives him half a minute.
const STALLED: Duration = Duration::from_secs(90);

/// Bytes that are no others', for each `seed`.
fn content(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| seed.wrapping_add((at % 251) as u8).wrapping_mul(31)).collect()
}

fn add(peer: &Peer, content: &[u8]) -> String {
    let file = peer.setup().host().dir().join("to-add");
    fs::write(&file, content).unwrap();
    peer.ok(&["blobs.add", file.to_str().unwrap()]).trim().to_owned()
}

fn get(peer: &Peer, id: &str) -> Vec<u8> {
    let output = peer.setup().run(&["blobs.get", id]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Waits for a blob, searching for it.
fn want(peer: &Peer, id: &str, within: Duration) {
    let answer = peer.control().call_within(within, "blobs.want", vec![json!(id)]);
    assert_eq!(answer, Ok(json!(true)));
}

fn has(peer: &Peer, id: &str) -> bool {
    peer.call("blobs.has", &[json!(id)]) == [json!(true)]
}

/// Waits for a blob without asking for it.
fn wait_for(peer: &Peer, id: &str) {
    wait::until(id, SOON, || if has(peer, id) { Ok(()) } else { Err("it is not here".to_owned()) });
}

fn add_foreign(peer: &mut Foreign, content: &[u8]) -> String {
    peer.ok("addBlob", &[json!(content)]).as_str().unwrap().to_owned()
}

/// Waits for a blob as the program does, and reads it.
fn want_foreign(peer: &mut Foreign, id: &str) -> Vec<u8> {
    assert_eq!(peer.ok("wantBlob", &[json!(id)]), json!(true));
    serde_json::from_value(peer.ok("getBlob", &[json!(id)])).unwrap()
}

/// Files that are still coming.
fn unfinished(peer: &Peer) -> usize {
    fs::read_dir(peer.setup().dir().join("blobs/tmp")).unwrap().count()
}

fn a_blob_goes_there_and_back(lab: &mut Lab, stack: Stack, we_dial: bool) {
    let [host_ours, host_theirs] = lab.segment(["ours", "theirs"]);
    let ours = Setup::on(&host_ours).solitary().start();
    let mut theirs = Foreign::start(&host_theirs, stack, &Options::default());
    // One is there before they meet, the others come while they are connected.
    let early = content(1, LARGE);
    let early_id = add(&ours, &early);
    match we_dial {
        true => drop(ours.ok(&["connect", theirs.address()])),
        false => theirs.connect(&ours.net_address()),
    }
    assert_eq!(want_foreign(&mut theirs, &early_id), early);
    let (small, large) = (content(2, 1), content(3, LARGE));
    for content in [&small, &large] {
        let id = add_foreign(&mut theirs, content);
        want(&ours, &id, SOON);
        assert_eq!(&get(&ours, &id), content);
    }
    let late = content(4, 65_536);
    let late_id = add(&ours, &late);
    assert_eq!(want_foreign(&mut theirs, &late_id), late);
    // The same bytes under the same names in the same layout.
    let hex = |dir: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(dir.join("blobs/sha256")).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(hex(ours.setup().dir()), hex(&theirs.dir()));
    assert_eq!(unfinished(&ours), 0);
    ours.wait_metric("blob_gets_total", &[("outcome", "ok")], 2.0);
    ours.wait_metric("blobs_served_total", &[("outcome", "ok")], 2.0);
}

#[test]
fn blobs_with_ssb_server_when_we_dial() {
    lab::run(|lab| a_blob_goes_there_and_back(lab, Stack::Classic, true));
}

#[test]
fn blobs_with_ssb_server_when_it_dials() {
    lab::run(|lab| a_blob_goes_there_and_back(lab, Stack::Classic, false));
}

#[test]
fn blobs_with_manyverses_stack_when_we_dial() {
    lab::run(|lab| a_blob_goes_there_and_back(lab, Stack::Manyverse, true));
}

#[test]
fn blobs_with_manyverses_stack_when_it_dials() {
    lab::run(|lab| a_blob_goes_there_and_back(lab, Stack::Manyverse, false));
}

#[test]
fn a_blob_is_found_over_three_hops_with_ssb_servers_on_the_way() {
    lab::run(|lab| {
        let [host_a, host_b, host_c, host_d] = lab.segment(["a", "b", "c", "d"]);
        let mut a = Foreign::start(&host_a, Stack::Classic, &Options::default());
        let b = Setup::on(&host_b).solitary().start();
        let mut c = Foreign::start(&host_c, Stack::Classic, &Options::default());
        let d = Setup::on(&host_d).solitary().start();
        b.ok(&["connect", a.address()]);
        b.ok(&["connect", c.address()]);
        c.connect(&d.net_address());
        // From ours at one end to theirs at the other, and back.
        let blob = content(5, LARGE);
        let id = add(&d, &blob);
        assert_eq!(want_foreign(&mut a, &id), blob);
        let blob = content(6, LARGE);
        let id = add_foreign(&mut a, &blob);
        want(&d, &id, SOON);
        assert_eq!(get(&d, &id), blob);
        assert!(has(&b, &id), "it came through here");
    });
}

#[test]
fn a_blob_is_pushed_to_a_peer_that_did_not_ask() {
    lab::run(|lab| {
        let [host_ours, host_theirs] = lab.segment(["ours", "theirs"]);
        let ours = Setup::on(&host_ours).solitary().set("blobs.pushy", 1).start();
        let mut theirs = Foreign::start(&host_theirs, Stack::Classic, &Options::default());
        let blob = content(7, LARGE);
        let id = add(&ours, &blob);
        assert_eq!(ours.call("blobs.push", &[json!(id)]), [json!(false)], "void, as JS answers it");
        // A push outlives the node.
        let setup = ours.kill();
        let ours = setup.start();
        ours.wait_metric("blob_pushes", &[], 1.0);
        ours.ok(&["connect", theirs.address()]);
        wait::until("the peer to have the blob", SOON, || {
            let has = theirs.ok("hasBlob", &[json!(id)]);
            if has == json!(true) { Ok(()) } else { Err(has.to_string()) }
        });
        wait::until("the push to end", SOON, || match ours.metrics()?.sum("blob_pushes", &[]) {
            0.0 => Ok(()),
            left => Err(left.to_string()),
        });
    });
}

#[test]
fn who_lies_floods_or_stalls_only_delays_a_blob() {
    lab::run(|lab| {
        let [host, host_liars, host_honest] = lab.segment(["node", "liars", "honest"]);
        let node = Setup::on(&host).solitary().start();
        let honest = Setup::on(&host_honest).solitary().start();
        let blob = content(8, LARGE);
        let id = add(&honest, &blob);
        node.call("blobs.want", &[json!(id), json!({ "nowait": true })]);
        let outcomes =
            [(Conduct::Forge, "wrong_hash"), (Conduct::Flood, "wrong_size"), (Conduct::Stall, "slow")];
        let mut hoarders = Vec::new();
        for (conduct, outcome) in outcomes {
            hoarders.push(Hoarder::join(&host_liars, &node, conduct));
            wait::until(outcome, STALLED, || {
                let gets = node.metrics()?.sum("blob_gets_total", &[("outcome", outcome)]);
                if gets >= 1.0 { Ok(()) } else { Err(node.metrics()?.to_string()) }
            });
            assert_eq!((has(&node, &id), unfinished(&node)), (false, 0), "nothing is kept of it");
        }
        node.ok(&["connect", &honest.net_address()]);
        want(&node, &id, SOON);
        assert_eq!(get(&node, &id), blob);
        assert_eq!(unfinished(&node), 0);
    });
}

#[test]
fn a_million_wants_of_a_stranger_are_no_burden() {
    lab::run(|lab| {
        let [host, host_rogue] = lab.segment(["node", "rogue"]);
        let node = Setup::on(&host).solitary().start();
        let network = NetworkKey::from_base64(MAIN_NETWORK).unwrap();
        let line = Rogue::dial(&host_rogue, node.net_socket());
        let mut rogue = line.handshake(network, &identity(), node.key()).unwrap();
        let call = loop {
            let packet = rogue.next_packet().unwrap();
            if packet.json()["name"] == json!(["blobs", "createWants"]) {
                break packet.request;
            }
        };
        for packet in 0..100_u32 {
            let wants = (0..10_000_u32).map(|n| {
                let mut id = [7; 32];
                id[..8].copy_from_slice(&(u64::from(packet) << 32 | u64::from(n)).to_be_bytes());
                (BlobId::from_bytes(id).to_string(), json!(-1))
            });
            rogue.send_json(STREAM, -call, &Value::Object(wants.collect()));
        }
        node.wait_metric("blob_wants", &[("why", "stranger")], 1.0);
        // One that is sent behind all of it is dealt with behind all of it.
        rogue.send_json(2, 1, &json!({ "name": ["manifest"], "args": [], "type": "sync" }));
        rogue.next_answer(1);
        let metrics = node.metrics().unwrap();
        assert!(metrics.sum("blob_wants", &[]) <= 100.0, "\n{metrics}");
        let memory = hawsepipe_tests::usage::Usage::of(node.process());
        assert!(memory.peak_mb < 300.0, "{memory:?}");
    });
}

#[test]
fn a_peer_without_create_wants_is_asked_in_the_older_way() {
    lab::run(|lab| {
        let [host, host_old] = lab.segment(["node", "old"]);
        let node = Setup::on(&host).solitary().start();
        let blob = content(12, LARGE);
        let id = BlobId::from_bytes(ssb_crypto::hash(&blob).0).to_string();
        node.call("blobs.want", &[json!(id), json!({ "nowait": true })]);
        let network = NetworkKey::from_base64(MAIN_NETWORK).unwrap();
        let line = Rogue::dial(&host_old, node.net_socket());
        let mut old = line.handshake(network, &identity(), node.key()).unwrap();
        let mut asked = Vec::new();
        while asked.last() != Some(&json!(["blobs", "get"])) {
            let packet = old.next_packet().unwrap();
            let name = packet.json()["name"].clone();
            if packet.request < 0 || name[0] != "blobs" {
                continue;
            }
            match name[1].as_str().unwrap() {
                "createWants" => {
                    let missing = json!({ "message": "no source:blobs,createWants", "name": "Error" });
                    old.send_json(STREAM | END, -packet.request, &missing);
                }
                "has" => {
                    assert_eq!(packet.json()["args"], json!([[id]]));
                    old.send_json(0, -packet.request, &json!([true]));
                }
                "get" => {
                    blob.chunks(65_536).for_each(|piece| old.send_packet(STREAM, -packet.request, piece));
                    old.send_json(STREAM | END, -packet.request, &json!(true));
                }
                _ => {}
            }
            asked.push(name);
        }
        want(&node, &id, SOON);
        assert!(asked.contains(&json!(["blobs", "changes"])), "{asked:?}");
        // Its own question is its way to say a want.
        let unknown = BlobId::from_bytes([3; 32]).to_string();
        old.send_json(0, 1, &json!({ "name": ["blobs", "has"], "args": [unknown], "type": "async" }));
        assert_eq!(old.next_answer(1).json(), json!(false));
        node.wait_metric("blob_wants", &[("why", "stranger")], 1.0);
    });
}

#[test]
fn nothing_passes_to_or_from_whom_we_block() {
    lab::run(|lab| {
        let [host, host_blocked, host_friend] = lab.segment(["node", "blocked", "friend"]);
        let [node, blocked, friend] =
            [&host, &host_blocked, &host_friend].map(|host| Setup::on(host).solitary().start());
        let ours = add(&node, &content(9, 1000));
        blocked.ok(&["connect", &node.net_address()]);
        want(&blocked, &ours, SOON);
        node.block(blocked.id());
        // The other side as well: as long as it has the session, its `connect` is content with that.
        for side in [&node, &blocked] {
            wait::until("the session to end", SOON, || match &side.connected()[..] {
                [] => Ok(()),
                others => Err(format!("{others:?}")),
            });
        }
        let refused = blocked.setup().run(&["connect", &node.net_address()]);
        assert!(!refused.status.success());
        let only_blocked = add(&blocked, &content(10, 1000));
        let also_friend = add(&friend, &content(11, 1000));
        node.call("blobs.want", &[json!(only_blocked), json!({ "nowait": true })]);
        node.ok(&["connect", &friend.net_address()]);
        want(&node, &also_friend, SOON);
        assert!(!has(&node, &only_blocked));
    });
}

#[test]
fn what_messages_of_whom_we_follow_link_to_is_fetched_by_itself() {
    lab::run(|lab| {
        let [host_a, host_b, host_c] = lab.segment(["a", "b", "c"]);
        let [a, b, c] = [&host_a, &host_b, &host_c].map(|host| Setup::on(host).solitary().start());
        a.follow(b.id());
        b.follow(c.id());
        let pictures: Vec<_> = (20..23).map(|seed| add(&b, &content(seed, 10_000))).collect();
        // Of whom we do not follow, only the message comes.
        let far = add(&c, &content(30, 10_000));
        c.publish(&json!({ "type": "post", "text": "far", "mentions": [{ "link": far }] }));
        b.publish(
            &json!({ "type": "post", "text": "one", "mentions": [{ "link": pictures[0], "size": 10_000 }] }),
        );
        b.publish(&json!({ "type": "about", "about": b.id(), "image": pictures[1] }));
        b.ok(&["connect", &c.net_address()]);
        // As long as b wanted it, a would want it out of sympathy.
        wait_for(&b, &far);
        a.ok(&["connect", &b.net_address()]);
        pictures[..2].iter().for_each(|picture| wait_for(&a, picture));
        a.wait_clock(&[(c.id().to_owned(), 1)], SOON);
        b.publish(&json!({ "type": "post", "text": "two", "mentions": [{ "link": pictures[2] }] }));
        wait_for(&a, &pictures[2]);
        assert!(!has(&a, &far));
    });
}

#[test]
fn a_full_disk_says_so_and_keeps_nothing_half() {
    lab::run(|lab| {
        let host = lab.host("node");
        let disk = lab.small_disk("disk", 1024);
        let setup = Setup::on(&host).solitary();
        fs::create_dir_all(setup.dir()).unwrap();
        symlink(&disk, setup.dir().join("blobs")).unwrap();
        let node = setup.start();
        let file = host.dir().join("too-large");
        fs::write(&file, content(1, 2_000_000)).unwrap();
        let output = node.setup().run(&["blobs.add", file.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("the disk is full"), "{said}");
        assert_eq!(unfinished(&node), 0);
        let small = content(2, 100_000);
        assert_eq!(get(&node, &add(&node, &small)), small, "there is room again");
    });
}

#[test]
fn the_quota_takes_what_was_fetched_for_others_and_leaves_what_is_ours() {
    lab::run(|lab| {
        let [host, host_other] = lab.segment(["node", "other"]);
        let node = Setup::on(&host).solitary().set("blobs.quota", 250_000).start();
        let other = Setup::on(&host_other).solitary().start();
        let own = add(&node, &content(1, 100_000));
        node.ok(&["connect", &other.net_address()]);
        let others: Vec<_> = (2..6).map(|seed| add(&other, &content(seed, 50_000))).collect();
        others.iter().for_each(|id| want(&node, id, SOON));
        node.wait_metric("blobs_evicted_total", &[], 1.0);
        assert!(has(&node, &own));
        assert!(node.metrics().unwrap().sum("blobs_bytes", &[]) <= 250_000.0);
        node.ok(&["call", "blobs.rm", &own]);
        assert!(!has(&node, &own));
    });
}

#[test]
fn the_owners_programs_see_blobs_as_js_shows_them() {
    lab::run(|lab| {
        let node = Setup::on(&lab.host("node")).solitary().start();
        let blob = content(1, 200_000);
        let id = add(&node, &blob);
        let missing = "&AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=.sha256";
        let empty = "&47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=.sha256";
        assert_eq!(node.call("blobs.has", &[json!([id, missing, empty])]), [json!([true, false, true])]);
        assert_eq!(node.call("blobs.size", &[json!(id)]), [json!(200_000)]);
        assert_eq!(node.call("blobs.size", &[json!([missing, id])]), [json!([null, 200_000])]);
        assert_eq!(get(&node, empty), b"");
        assert_eq!(node.call("blobs.want", &[json!(id)]), [json!(true)]);
        let meta = node.call("blobs.meta", &[json!(id)]);
        assert_eq!((&meta[0]["id"], &meta[0]["size"]), (&json!(id), &json!(200_000)));
        assert_eq!(node.call("blobs.ls", &[]), [json!(id)]);
        assert_eq!(node.call("blobs.ls", &[json!({ "meta": true })]), meta);
        let slice = node.setup().run(&[
            "call",
            "blobs.getSlice",
            &json!({ "id": id, "start": 10, "end": 70_000 }).to_string(),
        ]);
        assert_eq!(slice.stdout, blob[10..70_000]);
        let refused = |arguments: &[&str], text: &str| {
            let output = node.setup().run(arguments);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && said.contains(text), "{arguments:?}: {said}");
        };
        refused(&["blobs.get", missing], "could not get blob");
        refused(&["call", "blobs.has", "x"], "invalid id:x");
        refused(&["call", "blobs.get", &json!({ "id": id, "max": 5 }).to_string()], "incorrect file length");
        let file = lab.dir().join("large");
        fs::write(&file, vec![0; 5 * 1024 * 1024]).unwrap();
        refused(&["blobs.add", file.to_str().unwrap()], "bigger than blobs.max");
        assert_eq!(unfinished(&node), 0);
        let live = node.follow_output(&["call", "blobs.ls", r#"{"live": true}"#]);
        live.next_where(|value| value["sync"] == true);
        let id = add(&node, &content(2, 10));
        live.next_where(|value| *value == id);
        assert!(node.call("blobs.help", &[])[0]["commands"]["add"]["type"] == "sink");
    });
}

/// An HTTP request, and what is answered: status, head in small letters, body.
fn http(host: &Host, at: SocketAddr, method: &str, path: &str, headers: &str) -> (u16, String, Vec<u8>) {
    let mut stream = host.enter(|| TcpStream::connect(at)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n")
        .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head, answer[end + 4..].to_vec())
}

#[test]
fn browsers_get_blobs_whole_in_part_and_opened_and_are_safe_from_them() {
    lab::run(|lab| {
        let [host, host_other] = lab.segment(["node", "other"]);
        let node = Setup::on(&host).solitary().start();
        let at = node.blobs_http();
        let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
        png.extend(content(1, LARGE));
        let id = add(&node, &png);
        let path = format!("/blobs/get/{}", id.replace('/', "%2F"));
        let (status, head, body) = http(&host, at, "GET", &path, "");
        assert_eq!((status, body), (200, png.clone()));
        for header in [
            "content-type: image/png",
            "x-content-type-options: nosniff",
            "content-security-policy: default-src 'none'; sandbox",
            &format!("content-length: {}", png.len()),
            &format!("etag: \"{}\"", id.to_ascii_lowercase()),
        ] {
            assert!(head.contains(header), "{header} is missing in {head}");
        }
        assert!(!head.contains("access-control"), "{head}");
        let (status, head, body) = http(&host, at, "GET", &path, "Range: bytes=100-199\r\n");
        assert_eq!((status, &body[..]), (206, &png[100..200]));
        assert!(head.contains(&format!("content-range: bytes 100-199/{}", png.len())), "{head}");
        let (status, head, body) = http(&host, at, "HEAD", &path, "");
        assert_eq!((status, body.len()), (200, 0));
        assert!(head.contains(&format!("content-length: {}", png.len())), "{head}");
        assert_eq!(http(&host, at, "GET", &path, &format!("If-None-Match: \"{id}\"\r\n")).0, 304);
        assert_eq!(http(&host, at, "GET", &path, "Range: bytes=99999999-\r\n").0, 416);
        assert_eq!(http(&host, at, "GET", &path, "Range: bytes=x\r\n").0, 400);
        assert_eq!(http(&host, at, "GET", "/blobs/get/nonsense", "").0, 400);
        assert_eq!(http(&host, at, "GET", "/", "").0, 404);
        assert_eq!(http(&host, at, "POST", &path, "").0, 405);

        let page = add(&node, b"<!doctype html><script>alert(1)</script>");
        let (_, head, _) = http(&host, at, "GET", &format!("/get/{page}"), "");
        assert!(head.contains("content-type: text/plain"), "{head}");

        let key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
        let sealed = add(&node, &sealed(b"a sealed blob"));
        let path = format!("/blobs/get/{}?unbox={key}.boxs", sealed.replace('/', "%2F"));
        let (status, head, body) = http(&host, at, "GET", &path, "");
        assert_eq!((status, &body[..]), (200, &b"a sealed blob"[..]), "{head}");
        assert_eq!(http(&host, at, "GET", &path.replace("unbox=A", "unbox=B"), "").0, 400);

        // What is not here is waited for.
        let other = Setup::on(&host_other).solitary().start();
        let far = add(&other, b"from afar");
        node.ok(&["connect", &other.net_address()]);
        let (status, _, body) =
            http(&host, at, "GET", &format!("/blobs/get/{}", far.replace('/', "%2F")), "");
        assert_eq!((status, &body[..]), (200, &b"from afar"[..]));
    });
}

/// Seals as pull-box-stream does, under a key of ones and a nonce of zeros.
fn sealed(plain: &[u8]) -> Vec<u8> {
    let mut sealed = BytesMut::new();
    let mut sealer = Sealer::new(BoxKey::new(ssb_crypto::secretbox::Key([1; 32]), [0; 24]));
    sealer.seal(plain, &mut sealed);
    sealer.goodbye(&mut sealed);
    sealed.to_vec()
}

#[test]
fn a_second_node_on_a_machine_does_without_the_usual_port() {
    lab::run(|lab| {
        let host = lab.host("node");
        let one = Setup::on(&host).solitary().start();
        let two = Setup::on(&host).solitary().path(host.dir().join("two"));
        let two = two.set("port", 8011).set("metrics.listen", "127.0.0.1:8991").start();
        let id = add(&two, b"served by one socket only");
        assert_eq!(http(&host, one.blobs_http(), "GET", "/", "").0, 404);
        assert!(has(&two, &id));
        let explicit = Setup::on(&host).solitary().path(host.dir().join("three")).set("port", 8012);
        let output =
            explicit.set("metrics.listen", false).set("blobs.http", "127.0.0.1:8989").run(&["start"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("blobs.http"), "{said}");
    });
}
