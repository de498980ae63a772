//! What a process used so far, as Linux counts it.

use std::fs;

/// The ticks in which Linux counts processor time.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time and memory of one process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Processor time, in seconds.
    pub cpu: f64,
    /// Memory in use now, in MiB.
    pub now_mb: f64,
    /// The most memory that was in use at a time, in MiB.
    pub peak_mb: f64,
}

impl Usage {
    /// Reads it; all zero for a process that is gone.
    pub fn of(process: u32) -> Self {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        // User and system time are the 14th and 15th field of the line, the 12th and 13th of this rest.
        let ticks = fields.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok());
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let mib = |name: &str| {
            let size = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = size.and_then(|size| size.trim().trim_end_matches(" kB").parse::<f64>().ok());
            kib.unwrap_or(0.0) / 1024.0
        };
        Self { cpu: ticks.sum::<f64>() / TICKS_PER_SECOND, now_mb: mib("VmRSS:"), peak_mb: mib("VmHWM:") }
    }
}
