//! A network laboratory inside one test: hosts and Ethernet segments made of Linux namespaces.
//!
//! [`run`] starts the calling test a second time under `unshare`, in its own user, network, mount and
//! process namespaces. There it is root without being root outside, so it may make links and mount small
//! disks; and when that process ends, however it ends, the kernel ends everything that it started. Each
//! [`Host`] is one more network namespace, held open by a file descriptor. A thread that enters it
//! ([`Host::enter`]) opens its sockets there and starts its processes there.
//!
//! There are two kinds of network. [`Lab::segment`] is a LAN and nothing else. [`Lab::internet`] is a
//! routed network with public hosts and with homes behind every kind of NAT ([`internet`], [`nat`]), each
//! on a line with a delay, losses and a rate ([`link`]); [`probe`] measures what a host finds in its way.
//!
//! Works as root and as an ordinary user. It needs `unshare` (util-linux), `ip` (iproute2), for an internet
//! `nft` (nftables), and a kernel that allows user namespaces; where one of them is missing the test fails
//! and says so.

mod conntrack;
pub mod frame;
pub mod internet;
pub mod link;
pub mod nat;
pub mod probe;

use std::any::type_name;
use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, id as process_id};
use std::sync::Arc;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use tempfile::TempDir;

use self::internet::Internet;

/// Names the lab's folder to the inner run of a test, and by being set says that it is the inner run.
const INSIDE: &str = "HAWSEPIPE_TESTS_LAB";

/// The inner run leaves this file in the lab's folder as its last act. Without it a test whose name the
/// outer run got wrong would pass without having run.
const WITNESS: &str = "test-ran-to-its-end";

/// Everything a test needs to build its network.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    segments: u8,
}

/// One machine of the lab: a network namespace with a loopback and, on a segment, an Ethernet link.
#[derive(Debug, Clone)]
pub struct Host(Arc<HostInner>);

#[derive(Debug)]
struct HostInner {
    name: String,
    dir: PathBuf,
    namespace: File,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

/// Runs `test` in a lab of its own. Call it as the only statement of a test, with a closure written right
/// there: its type tells which test to run inside.
///
/// # Panics
/// When `test` panics, and when this machine does not allow a lab.
pub fn run<F: FnOnce(&mut Lab)>(test: F) {
    let name = test_name::<F>();
    run_again_with(["--exact", &name, "--nocapture", "--include-ignored"].map(OsString::from).into(), test);
}

/// Runs `program` in a lab of its own. Call it as the only statement of `main`.
///
/// # Panics
/// When `program` panics, and when this machine does not allow a lab.
pub fn run_main(program: impl FnOnce(&mut Lab)) {
    run_again_with(env::args_os().skip(1).collect(), program);
}

fn run_again_with(arguments: Vec<OsString>, work: impl FnOnce(&mut Lab)) {
    if let Some(dir) = env::var_os(INSIDE) {
        let mut lab = Lab { dir: PathBuf::from(dir), segments: 0 };
        ip(&["link", "set", "lo", "up"]);
        work(&mut lab);
        fs::write(lab.dir.join(WITNESS), "").expect("the lab's folder is writable");
        return;
    }
    let dir = TempDir::with_prefix("hawsepipe-lab-").expect("a temporary folder can be made");
    let status = unshared()
        .arg(env::current_exe().expect("a program knows its own path"))
        .args(&arguments)
        .env(INSIDE, dir.path())
        .status()
        .unwrap_or_else(|e| panic!("cannot start `unshare` ({e}): install util-linux"));
    if !status.success() {
        explain_refusal();
    }
    assert!(status.success(), "the test failed inside its lab: see above");
    assert!(dir.path().join(WITNESS).exists(), "nothing ran in the lab: {arguments:?}");
}

/// `unshare` with everything a lab needs; `--kill-child` ties the lab to the life of the outer process.
fn unshared() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "--mount", "--pid", "--fork"]);
    command.args(["--kill-child", "--mount-proc"]);
    command
}

/// Tells a failed test from a kernel that allows no lab.
fn explain_refusal() {
    let probe = unshared().arg("true").output();
    match probe {
        Ok(output) if output.status.success() => {}
        Ok(output) => panic!(
            "this machine does not allow user namespaces, which the tests build their networks from:\n{}\
             allow them (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces=10000, \
             kernel.apparmor_restrict_unprivileged_userns=0; in a container: --privileged) and run again",
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(e) => panic!("cannot start `unshare`: {e}"),
    }
}

/// The name under which the test harness knows the test that defined the closure `F`.
fn test_name<F>() -> String {
    let path = type_name::<F>().trim_end_matches("::{{closure}}");
    path.split_once("::").map_or(path, |(_crate, name)| name).to_owned()
}

impl Lab {
    /// The lab's own folder, removed with the lab.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A machine with nothing but a loopback, for tests that need ports of their own but no network.
    pub fn host(&mut self, name: &str) -> Host {
        bare_host(&self.dir, name, Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST)
    }

    /// A routed network for public hosts and for homes behind NATs.
    pub fn internet(&self) -> Internet {
        Internet::new(&self.dir)
    }

    /// Machines on one Ethernet segment of their own, each with a private IPv4 and a unique local IPv6
    /// address, and with routes for broadcast and multicast as a home network gives them.
    pub fn segment<const N: usize>(&mut self, names: [&str; N]) -> [Host; N] {
        self.segments += 1;
        let segment = self.segments;
        let bridge = format!("br{segment}");
        ip(&["link", "add", &bridge, "type", "bridge"]);
        // Without a querier on the segment, snooping would drop what mDNS sends.
        ip(&["link", "set", &bridge, "type", "bridge", "mcast_snooping", "0"]);
        ip(&["link", "set", &bridge, "up"]);
        let mut number = 0u8;
        names.map(|name| {
            number += 1;
            let v4 = Ipv4Addr::new(192, 168, segment, number);
            let v6 = Ipv6Addr::new(0xfd00, 0, 0, segment.into(), 0, 0, 0, number.into());
            let host = bare_host(&self.dir, name, v4, v6);
            host.plug_into(&bridge, segment, number);
            host
        })
    }

    /// A disk of `kib` KiB at its own place, for what happens when it is full.
    pub fn small_disk(&self, name: &str, kib: u32) -> PathBuf {
        let place = self.dir.join(name);
        fs::create_dir_all(&place).expect("the lab's folder is writable");
        let size = format!("size={kib}k");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(&place).status();
        assert!(mounted.is_ok_and(|status| status.success()), "the lab may not mount a tmpfs");
        place
    }
}

/// A machine that is not plugged in anywhere yet, with its folder in `labs_dir`.
fn bare_host(labs_dir: &Path, name: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Host {
    let namespace = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("inside a lab network namespaces are free");
        File::open("/proc/thread-self/ns/net").expect("/proc is mounted in the lab")
    })
    .join()
    .expect("the namespace thread ends");
    let dir = labs_dir.join(name);
    fs::create_dir_all(&dir).expect("the lab's folder is writable");
    let host = Host(Arc::new(HostInner { name: name.to_owned(), dir, namespace, v4, v6 }));
    host.enter(|| ip(&["link", "set", "lo", "up"]));
    host
}

impl Host {
    /// Its name in the lab.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// A folder for what runs on it.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Its address on the segment.
    pub fn v4(&self) -> Ipv4Addr {
        self.0.v4
    }

    /// Its IPv6 address on the segment.
    pub fn v6(&self) -> Ipv6Addr {
        self.0.v6
    }

    /// The same machine with other addresses.
    fn at(&self, v4: Ipv4Addr, v6: Ipv6Addr) -> Self {
        let HostInner { name, dir, namespace, .. } = &*self.0;
        let namespace = namespace.try_clone().expect("a file can be opened twice");
        Self(Arc::new(HostInner { name: name.clone(), dir: dir.clone(), namespace, v4, v6 }))
    }

    /// Runs `work` on this host: its sockets and child processes belong to the host, and sockets stay
    /// there when `work` has returned them.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0.namespace, CloneFlags::CLONE_NEWNET).expect("the lab may enter its own hosts");
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// What `ip` takes for the name of this host's namespace.
    fn namespace_path(&self) -> String {
        format!("/proc/{}/fd/{}", process_id(), self.0.namespace.as_raw_fd())
    }

    /// Runs one `ip` on this host, with a command on each line.
    fn ip_batch(&self, commands: &str) {
        self.enter(|| feed("ip", "iproute2", &["-batch", "-"], commands));
    }

    /// Sets this host's kernel parameters.
    fn sysctl(&self, settings: &[(&str, &str)]) {
        self.enter(|| {
            for (name, value) in settings {
                fs::write(Path::new("/proc/sys").join(name), value)
                    .unwrap_or_else(|e| panic!("the lab owns its sysctls, but {name} = {value} fails: {e}"));
            }
        });
    }

    fn plug_into(&self, bridge: &str, segment: u8, number: u8) {
        let port = format!("sw{segment}p{number}");
        let namespace = self.namespace_path();
        ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &namespace]);
        ip(&["link", "set", &port, "master", bridge, "up"]);
        let (v4, v6) = (format!("{}/24", self.0.v4), format!("{}/64", self.0.v6));
        let gateway = Ipv4Addr::new(192, 168, segment, 254).to_string();
        self.enter(|| {
            // Duplicate address detection would keep link-local addresses back for a second or two.
            let dad = fs::write("/proc/sys/net/ipv6/conf/eth0/accept_dad", "0");
            dad.expect("the lab owns its sysctls: is IPv6 switched off on this machine?");
            ip(&["address", "add", &v4, "broadcast", "+", "dev", "eth0"]);
            ip(&["-6", "address", "add", &v6, "dev", "eth0", "nodad"]);
            ip(&["link", "set", "eth0", "up"]);
            ip(&["route", "add", "default", "via", &gateway]);
        });
    }
}

/// Runs `ip` where the calling thread is.
fn ip(arguments: &[&str]) {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("cannot start `ip` ({e}): install iproute2"));
    assert!(
        output.status.success(),
        "ip {} failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs a program of a Debian package where the calling thread is, with `input` as its standard input.
fn feed(program: &str, package: &str, arguments: &[&str], input: &str) {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start `{program}` ({e}): install {package}"));
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("a started program can be waited for");
    assert!(
        output.status.success() && matches!(written, Some(Ok(()))),
        "{program} failed: {}\non\n{input}",
        String::from_utf8_lossy(&output.stderr)
    );
}
