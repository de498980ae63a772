//! What the figures were taken on.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::thread;

use hawsepipe_tests::wait;

use super::Bench;

/// Writes that are waited for to know what one takes.
const SYNCS: usize = 200;

/// How much else the machine had to do: processes that could run, averaged over the last fifteen minutes.
fn load() -> f64 {
    let averages = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    averages.split(' ').nth(2).and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

/// The machine, the day and the corpus in words.
pub(super) fn describe(bench: &Bench) -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let date = Command::new("date").args(["-u", "+%F"]).output();
    let date = date.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let corpus = &bench.corpus;
    format!(
        "\n{}, {cores} cores ({model}, load {:.1}); {} messages of {} authors; medians of {} and their range",
        date.unwrap_or_default(),
        load(),
        corpus.messages,
        corpus.clock.len(),
        bench.runs
    )
}

/// The median time of appending 4 KiB and waiting for the disk, in milliseconds.
pub(super) fn fdatasync(dir: &Path) -> f64 {
    let path = dir.join("fdatasync");
    let mut file = fs::File::create(&path).expect("the lab's folder is writable");
    let mut times: Vec<f64> = (0..SYNCS)
        .map(|_| {
            let started = wait::now();
            file.write_all(&[0x5a; 4096]).and_then(|()| file.sync_data()).expect("there is room");
            (wait::now() - started).as_secs_f64() * 1000.0
        })
        .collect();
    fs::remove_file(path).ok();
    times.sort_by(f64::total_cmp);
    times[SYNCS / 2]
}

/// Bytes of all files in a folder, as the disk counts them.
pub(super) fn disk_usage(dir: &Path) -> u64 {
    let output = Command::new("du").args(["-s", "-B1"]).arg(dir).output().expect("coreutils are installed");
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}
