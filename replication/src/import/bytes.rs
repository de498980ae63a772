//! Reading a file by offsets, through a large buffer.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes that are read in one go.
const CHUNK: usize = 1 << 20;

/// A file that is only read.
#[derive(Debug)]
pub(super) struct Bytes {
    file: File,
    len: u64,
    /// Where in the file `buffer` begins.
    start: u64,
    buffer: Vec<u8>,
}

impl Bytes {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { file, len, start: 0, buffer: Vec::new() })
    }

    /// How long the file was when it was opened.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// `n` bytes at an offset; `None` if the file ends before.
    pub(super) fn get(&mut self, at: u64, n: usize) -> io::Result<Option<&[u8]>> {
        if at.checked_add(n as u64).is_none_or(|end| end > self.len) {
            return Ok(None);
        }
        let held = at.checked_sub(self.start).map(|skip| skip as usize);
        let held = held.filter(|skip| skip + n <= self.buffer.len());
        let skip = if let Some(skip) = held {
            skip
        } else {
            let wanted = (self.len - at).min(n.max(CHUNK) as u64) as usize;
            self.buffer.resize(wanted, 0);
            self.start = at;
            if let Err(error) = self.file.read_exact_at(&mut self.buffer, at) {
                self.buffer.clear();
                return Err(error);
            }
            0
        };
        Ok(Some(&self.buffer[skip..skip + n]))
    }

    /// A big-endian number of at most eight bytes at an offset.
    pub(super) fn number(&mut self, at: u64, width: usize) -> io::Result<Option<u64>> {
        Ok(self.get(at, width)?.map(big_endian))
    }
}

/// A big-endian number of at most eight bytes.
pub(super) fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
