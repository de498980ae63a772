//! Makes a damaged log one that can be opened: what is bad becomes void, in place, after its bytes were
//! copied to a file beside. A crash in between leaves a log that can be mended again.

use std::io;
use std::ops::Range;

use super::walk::{Bad, FIRST};
use super::{CheckReport, LogResult};
use crate::store::disk::DiskFile;
use crate::store::log::record::{VOID_HEAD, void_head};
use crate::store::log::recover::Layout;
use crate::store::log::{create_segment, header};

pub(super) fn mend(layout: &Layout, bad: &Bad, report: &mut CheckReport) -> LogResult<()> {
    for (base, stretches) in &bad.stretches {
        let mut stretches = stretches.clone();
        stretches.sort_by_key(|stretch| stretch.start);
        mend_segment(layout, *base, &joined(stretches), report)?;
    }
    for base in &bad.headers {
        mend_header(layout, *base).map_err(|e| layout.io(*base, e))?;
    }
    Ok(())
}

fn mend_segment(
    layout: &Layout,
    base: u64,
    stretches: &[Range<u64>],
    report: &mut CheckReport,
) -> LogResult<()> {
    let failed = |source| layout.io(base, source);
    let file = match layout.files.get(&base) {
        Some(file) => {
            report.saved.push(layout.save_aside(base, stretches)?);
            std::sync::Arc::clone(file)
        }
        // The log's very first segment is missing.
        None => create_segment(&*layout.disk, base).map_err(failed)?,
    };
    for stretch in stretches {
        let start = stretch.start.max(base + FIRST);
        void(&*file, start - base, stretch.end - base).map_err(failed)?;
    }
    file.sync().map_err(failed)
}

/// A segment that a crash interrupted while it was being made is left to opening, which begins it anew.
fn mend_header(layout: &Layout, base: u64) -> io::Result<()> {
    let Some(file) = layout.files.get(&base) else { return Ok(()) };
    if layout.next_base(base).is_none() && file.size()? <= FIRST {
        return Ok(());
    }
    file.write_at(&header(base), 0)?;
    file.sync()
}

/// Writes voids over a part of a file, extending it when needed.
fn void(file: &dyn DiskFile, mut from: u64, to: u64) -> io::Result<()> {
    if file.size()? < to {
        file.set_size(to)?;
    }
    while from < to {
        let left = to - from;
        // Never leaves a rest too short for a void.
        let len = u32::try_from(left).unwrap_or(u32::MAX - VOID_HEAD as u32);
        file.write_at(&void_head(len), from)?;
        from += u64::from(len);
    }
    Ok(())
}

/// Makes one of neighbours.
fn joined(ascending: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for stretch in ascending {
        match joined.last_mut() {
            Some(last) if stretch.start <= last.end => last.end = last.end.max(stretch.end),
            Some(_) | None => joined.push(stretch),
        }
    }
    joined
}
