//! The layers of ARCHITECTURE.md, held against what Cargo and the sources say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hawsepipe_tests::package_dir;
use serde_json::Value;

const OVERLAY: &str = "hawsepipe-overlay";
const REPLICATION: &str = "hawsepipe-replication";

/// What a crate depends on to be built, not what its tests use.
struct Packages(BTreeMap<String, BTreeSet<String>>);

impl Packages {
    fn load() -> Self {
        // Without a platform, Cargo wants the sources of every system's dependencies.
        let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let output = Command::new(env!("CARGO"))
            .args([
                "metadata",
                "--format-version",
                "1",
                "--offline",
                "--locked",
                "--filter-platform",
                &platform,
            ])
            .current_dir(package_dir())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut names = BTreeMap::new();
        for package in metadata["packages"].as_array().unwrap() {
            names.insert(package["id"].as_str().unwrap(), package["name"].as_str().unwrap());
        }
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in metadata["resolve"]["nodes"].as_array().unwrap() {
            let from = names[node["id"].as_str().unwrap()].to_owned();
            let to = node["deps"].as_array().unwrap().iter().filter(|dep| is_normal(dep));
            let to = to.map(|dep| names[dep["pkg"].as_str().unwrap()].to_owned());
            edges.entry(from).or_default().extend(to);
        }
        Self(edges)
    }

    fn all_below(&self, package: &str) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        let mut open = vec![package];
        while let Some(next) = open.pop() {
            for dependency in &self.0[next] {
                if found.insert(dependency.as_str()) {
                    open.push(dependency);
                }
            }
        }
        found
    }
}

fn is_normal(dependency: &Value) -> bool {
    dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null())
}

#[test]
fn replication_has_no_async_runtime_and_no_network() {
    let packages = Packages::load();
    let below = packages.all_below(REPLICATION);
    assert!(below.contains("sled"), "the walk over the dependencies is broken: {below:?}");
    let banned = ["tokio", "futures", "libp2p", "quinn", "mio", "socket2", "hyper"];
    let found: Vec<_> = banned.into_iter().filter(|name| below.contains(name)).collect();
    assert!(found.is_empty(), "replication depends on {found:?}");
}

#[test]
fn overlay_and_replication_do_not_know_each_other() {
    let packages = Packages::load();
    assert!(!packages.all_below(OVERLAY).contains(REPLICATION));
    assert!(!packages.all_below(REPLICATION).contains(OVERLAY));
    assert!(packages.all_below(OVERLAY).contains("libp2p"));
}

#[test]
fn nothing_depends_on_the_node_or_on_the_tests_but_the_tests() {
    let packages = Packages::load();
    for library in [OVERLAY, REPLICATION] {
        let below = packages.all_below(library);
        assert!(!below.contains("hawsepipe") && !below.contains("hawsepipe-tests"), "{library}: {below:?}");
    }
    assert!(!packages.all_below("hawsepipe").contains("hawsepipe-tests"));
}

#[test]
fn libp2p_does_not_leave_the_swarm() {
    let root = package_dir().parent().unwrap().to_owned();
    let mut users = Vec::new();
    for package in ["overlay", "node", "replication"] {
        for file in sources(&root.join(package)) {
            let text = fs::read_to_string(&file).unwrap();
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            if code.into_iter().any(|line| line.contains("libp2p::") || line.contains("use libp2p")) {
                users.push(file.strip_prefix(&root).unwrap().to_owned());
            }
        }
    }
    let swarm = PathBuf::from("overlay/src/swarm");
    let (inside, outside): (Vec<_>, Vec<_>) =
        users.into_iter().partition(|file| file.starts_with(&swarm) || *file == swarm.with_extension("rs"));
    assert!(outside.is_empty(), "libp2p is used outside overlay/src/swarm: {outside:?}");
    assert!(!inside.is_empty(), "the search for libp2p is broken: not even the swarm uses it");
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}
