//! Who may connect and call what, from the outside.

use std::fs;

use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_tests::control::Control;
use hawsepipe_tests::lab::{self, Host};
use hawsepipe_tests::peer::{Peer, Setup};
use hawsepipe_tests::wait::{self, SOON};
use serde_json::json;
use ssb_crypto::Keypair;

fn keypair(n: u8) -> Keypair {
    Keypair::from_seed(&[n; 32]).unwrap()
}

fn id(n: u8) -> String {
    PublicKey::from_bytes(keypair(n).public.0).to_string()
}

fn dial(host: &Host, node: &Peer, n: u8) -> Result<Control, String> {
    Control::dial(host, node.net_socket(), node.key(), &keypair(n))
}

#[test]
fn a_node_for_members_takes_members_and_says_why_it_takes_nobody_else() {
    lab::run(|lab| {
        let [pub_host, other] = lab.segment(["pub", "other"]);
        let setup = Setup::on(&pub_host).solitary();
        let node = setup.set("access.policy", "members").set("access.members", json!([id(1)])).start();
        assert!(dial(&other, &node, 1).is_ok());
        assert!(dial(&other, &node, 2).is_err());
        node.wait_metric("authorize_total", &[("direction", "in"), ("outcome", "allowed")], 1.0);
        node.wait_metric("authorize_total", &[("direction", "in"), ("outcome", "policy")], 1.0);
        let log = fs::read_to_string(pub_host.dir().join("hawsepipe.log")).unwrap();
        assert!(log.lines().any(|line| line.contains("no session") && line.contains("policy")), "{log}");
    });
}

#[test]
fn a_program_may_call_what_it_was_granted_until_that_is_revoked() {
    lab::run(|lab| {
        let [own, other] = lab.segment(["own", "other"]);
        let node = Setup::on(&own).solitary().start();
        let post = || vec![json!({"type": "post", "text": "by a program"})];
        let refusal = "publish: method:publish is not in list of allowed methods";
        assert_eq!(dial(&other, &node, 1).unwrap().call("publish", post()).unwrap_err(), refusal);

        node.ok(&["grant", &id(1), "--allow", "publish,friends.*"]);
        let program = dial(&other, &node, 1).unwrap();
        program.call("publish", post()).unwrap();
        program.call("friends.hops", vec![]).unwrap();
        assert!(program.call("whoami", vec![]).unwrap_err().contains("not in list of allowed methods"));
        assert!(dial(&other, &node, 2).unwrap().call("publish", post()).is_err(), "nobody else may");

        // A restart does not forget.
        let setup = node.setup().clone();
        assert!(node.stop().success());
        let restarted = setup.start();
        assert!(restarted.ok(&["grants"]).contains("friends.*"));
        let program = dial(&other, &restarted, 1).unwrap();
        program.call("publish", post()).unwrap();
        restarted.ok(&["revoke", &id(1)]);
        wait::until("the session's end", SOON, || match program.call("publish", post()) {
            Ok(_) => Err("still allowed".to_owned()),
            Err(_) => Ok(()),
        });
        assert_eq!(dial(&other, &restarted, 1).unwrap().call("publish", post()).unwrap_err(), refusal);
    });
}

#[test]
fn a_grant_for_nothing_that_exists_is_refused() {
    lab::run(|lab| {
        let host = lab.host("own");
        let node = Setup::on(&host).solitary().start();
        let output = node.setup().run(&["grant", &id(1), "--allow", "publihs"]);
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("there is no method publihs"));
        let output = node.setup().run(&["grant", "me", "--allow", "publish"]);
        assert!(!output.status.success());
        assert_eq!(node.ok(&["grants"]).trim(), "{}");
    });
}
