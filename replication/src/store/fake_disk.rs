//! A disk for tests: it forgets what was not synced when the power goes, in any order and in parts, and
//! it can be full or refuse to sync.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::{Disk, DiskFile};

/// What the power cut may tear apart.
const SECTOR: usize = 64;

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Content>,
    durable_names: BTreeSet<String>,
    /// How much files may still grow.
    room: Option<u64>,
    sync_fails: bool,
    /// So many more succeed.
    syncs_left: Option<u64>,
}

#[derive(Debug, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Since the last sync, in order.
    changes: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Size(usize),
}

/// The disk. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(super) struct FakeDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct FakeFile {
    disk: FakeDisk,
    name: String,
}

/// A generator for tests: the same seed, the same disk.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `n`.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

impl FakeDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// From now on files may grow by so much in all.
    pub(super) fn set_room(&self, room: Option<u64>) {
        self.state().room = room;
    }

    pub(super) fn set_sync_fails(&self, fails: bool) {
        self.state().sync_fails = fails;
    }

    /// From the sync after so many on, all fail.
    pub(super) fn fail_syncs_after(&self, syncs: u64) {
        self.state().syncs_left = Some(syncs);
    }

    /// What is on the disk after the power has gone now.
    pub(super) fn after_power_cut(&self, dice: &mut Dice) -> Self {
        let before = self.state();
        let mut state = State::default();
        for (name, content) in &before.files {
            if !before.durable_names.contains(name) && dice.below(2) == 0 {
                continue;
            }
            let mut bytes = content.durable.clone();
            for change in &content.changes {
                survive(change, &mut bytes, dice);
            }
            let content = Content { now: bytes.clone(), durable: bytes, changes: Vec::new() };
            state.files.insert(name.clone(), content);
            state.durable_names.insert(name.clone());
        }
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// A file's bytes, to be looked at or tampered with.
    pub(super) fn bytes(&self, name: &str) -> Vec<u8> {
        self.state().files[name].now.clone()
    }

    pub(super) fn set_bytes(&self, name: &str, bytes: Vec<u8>) {
        let content = Content { now: bytes.clone(), durable: bytes, changes: Vec::new() };
        self.state().files.insert(name.to_owned(), content);
        self.state().durable_names.insert(name.to_owned());
    }

    /// The same bytes on another disk.
    pub(super) fn copy(&self) -> Self {
        let copy = Self::default();
        for (name, content) in &self.state().files {
            copy.set_bytes(name, content.now.clone());
        }
        copy
    }
}

/// Applies a change wholly, in part, or not at all.
fn survive(change: &Change, bytes: &mut Vec<u8>, dice: &mut Dice) {
    let fate = dice.below(4);
    match change {
        _ if fate == 0 => {}
        Change::Size(size) => bytes.resize(*size, 0),
        Change::Write { at, bytes: written } => {
            for (i, sector) in written.chunks(SECTOR).enumerate() {
                // 1: all of it; 2: some sectors; 3: a prefix, mostly.
                if fate == 1 || fate == 2 && dice.below(4) > 0 || fate == 3 && dice.below(8) > 0 {
                    write(bytes, at + i * SECTOR, sector);
                } else if fate == 3 {
                    break;
                }
            }
        }
    }
}

fn write(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if file.len() < at + bytes.len() {
        file.resize(at + bytes.len(), 0);
    }
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

impl Disk for FakeDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.state().files.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        assert!(self.state().files.contains_key(name));
        Ok(Arc::new(FakeFile { disk: self.clone(), name: name.to_owned() }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.state().files.insert(name.to_owned(), Content::default());
        self.open(name)
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.state();
        state.durable_names = state.files.keys().cloned().collect();
        Ok(())
    }

    fn path_of(&self, name: &str) -> PathBuf {
        PathBuf::from("fake").join(name)
    }
}

impl DiskFile for FakeFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.state().files[&self.name].now.len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let state = self.disk.state();
        let bytes = state.files[&self.name].now.get(at as usize..).unwrap_or_default();
        let n = bytes.len().min(buf.len());
        buf[..n].copy_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let room = state.room;
        let content = state.files.get_mut(&self.name).unwrap();
        let grows = (at as usize + bytes.len()).saturating_sub(content.now.len());
        let fits = room.map_or(grows, |room| grows.min(room as usize));
        let written = &bytes[..bytes.len() - (grows - fits)];
        write(&mut content.now, at as usize, written);
        content.changes.push(Change::Write { at: at as usize, bytes: written.to_vec() });
        state.room = room.map(|room| room - fits as u64);
        if fits < grows { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let content = state.files.get_mut(&self.name).unwrap();
        let freed = content.now.len().saturating_sub(size as usize) as u64;
        content.now.resize(size as usize, 0);
        content.changes.push(Change::Size(size as usize));
        state.room = state.room.map(|room| room + freed);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.sync_fails || state.syncs_left == Some(0) {
            return Err(io::Error::other("the disk does not sync"));
        }
        state.syncs_left = state.syncs_left.map(|left| left - 1);
        let content = state.files.get_mut(&self.name).unwrap();
        content.durable = content.now.clone();
        content.changes.clear();
        Ok(())
    }
}
