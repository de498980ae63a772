//! `shs1-test`, the cross-language suite for the secret handshake, against both of our roles: each seed is
//! 45 handshakes, of which 20 are honest and 25 lie in one of five ways.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use hawsepipe_tests::js;

/// How many seeds each role is tried with.
const SEEDS: u32 = 20;

fn example(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    let profile = test.parent().and_then(|deps| deps.parent()).unwrap();
    let example = profile.join("examples").join(name);
    assert!(example.exists(), "{} is missing: cargo build --workspace --examples", example.display());
    example
}

fn passes(suite: &str, subject: &str) {
    let suite = js::installed("tools", &format!("shs1-test/{suite}"));
    let subject = example(subject);
    for seed in 0..SEEDS {
        let output =
            Command::new("node").arg(&suite).arg(&subject).arg(format!("hawsepipe-{seed}")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("Passed"), "seed {seed}:\n{said}");
    }
}

#[test]
fn our_handshake_client_passes_the_suite() {
    passes("test-client.js", "shs1-client");
}

#[test]
fn our_handshake_server_passes_the_suite() {
    passes("test-server.js", "shs1-server");
}

#[test]
fn the_suite_tells_a_wrong_handshake() {
    let suite = js::installed("tools", "shs1-test/test-server.js");
    // The client in the server's place: starts a handshake of its own instead of answering.
    let output = Command::new("node").arg(suite).arg(example("shs1-client")).arg("wrong").output().unwrap();
    assert!(!output.status.success(), "the suite passes anything");
}
