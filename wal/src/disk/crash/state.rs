//! The names and files of a [`CrashDisk`](super::CrashDisk), and what befell them.
//!
//! Invariants:
//! - Every name, live, durable or pending, leads to an inode that is there.
//! - Changes are numbered in the order in which they were made, over all files and directories.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::fault::{DiskError, Effect, Fault, Op, OpKind};
use super::image::{BLOCK_BYTES, Inode, Way, What};
use super::lent::Lent;
use super::survivors::{Pending, PendingChange, Survivors};

/// Operations that are remembered at most.
const TRACE_OPS_MAX: usize = 1 << 16;

/// A file, whatever its name is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ino(u64);

/// Everything that a disk is.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) dirs: BTreeSet<PathBuf>,
    pub(super) names: BTreeMap<PathBuf, Ino>,
    durable_names: BTreeMap<PathBuf, Ino>,
    name_changes: Vec<NameChange>,
    inodes: BTreeMap<Ino, Inode>,
    next_ino: Ino,
    /// The number of the next change.
    number: u64,
    locked: BTreeSet<PathBuf>,
    /// Grows with each crash.
    life: u64,
    pub(super) faults: Vec<Fault>,
    pub(super) capacity_bytes: Option<u64>,
    pub(super) changes: u64,
    pub(super) changes_left: Option<u64>,
    pub(super) trace: Option<Vec<Op>>,
    /// What is held of files, by whomever: it outlives the process that read it.
    lent: BTreeMap<Ino, Lent>,
    /// The first write over bytes that somebody held.
    pub(super) trampled: Option<Op>,
}

/// A name that was given or taken away, and is not synced.
#[derive(Clone, Debug)]
struct NameChange {
    number: u64,
    path: PathBuf,
    /// Where it leads; none if it is gone.
    to: Option<Ino>,
    /// The change without which this one is not made: the new name of a file that was renamed.
    needs: Option<u64>,
}

impl State {
    pub(super) fn fork(&self) -> Self {
        let mut inodes = self.inodes.clone();
        for file in inodes.values_mut() {
            file.opens = 0;
        }
        Self {
            dirs: self.dirs.clone(),
            names: self.names.clone(),
            durable_names: self.durable_names.clone(),
            name_changes: self.name_changes.clone(),
            inodes,
            next_ino: self.next_ino,
            number: self.number,
            ..Self::default()
        }
    }

    /// Counts an operation, and says what fault strikes it.
    pub(super) fn begin(&mut self, op: Op) -> io::Result<Option<Effect>> {
        if op.kind.is_change() {
            self.changes += 1;
            match &mut self.changes_left {
                Some(0) => return Err(io::Error::other("the power is off")),
                Some(left) => *left -= 1,
                None => {}
            }
        }
        let mut faults = self.faults.iter_mut();
        let effect = faults.find_map(|fault| fault.strike(op.kind, &op.path));
        if let Some(trace) = &mut self.trace
            && trace.len() < TRACE_OPS_MAX
        {
            trace.push(op);
        }
        Ok(effect)
    }

    pub(super) fn check_life(&self, life: u64) -> io::Result<()> {
        if life == self.life {
            Ok(())
        } else {
            Err(io::Error::other("the process that had it open is dead"))
        }
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<(Ino, u64)> {
        if self.names.contains_key(path) || self.dirs.contains(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if path.parent().is_none_or(|dir| !self.dirs.contains(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let ino = self.next_ino;
        self.next_ino.0 += 1;
        let file = Inode {
            path: path.to_owned(),
            opens: 1,
            ..Inode::default()
        };
        self.inodes.insert(ino, file);
        self.change_name(path, Some(ino), None);
        Ok((ino, self.life))
    }

    pub(super) fn open(&mut self, path: &Path) -> io::Result<(Ino, u64)> {
        if self.dirs.contains(path) {
            let kind = io::ErrorKind::InvalidInput;
            return Err(io::Error::new(kind, "not a regular file"));
        }
        let ino = *self.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        self.inode(ino).opens += 1;
        Ok((ino, self.life))
    }

    pub(super) fn close(&mut self, ino: Ino, life: u64) {
        if life == self.life {
            self.inode(ino).opens -= 1;
            self.collect();
        }
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let ino = *self.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        let added = self.change_name(to, Some(ino), None);
        self.change_name(from, None, Some(added));
        to.clone_into(&mut self.inode(ino).path);
        self.collect();
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        if !self.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change_name(path, None, None);
        self.collect();
        Ok(())
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if !self.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let paths = self.names.keys().chain(&self.dirs);
        let mut found: Vec<String> = paths
            .filter(|path| path.parent() == Some(dir))
            .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
            .collect();
        found.sort_unstable();
        Ok(found)
    }

    pub(super) fn create_dir_all(&mut self, dir: &Path) -> io::Result<()> {
        if dir.ancestors().any(|path| self.names.contains_key(path)) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        self.dirs.extend(dir.ancestors().map(Path::to_owned));
        Ok(())
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        if !self.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let changes = std::mem::take(&mut self.name_changes);
        for change in changes {
            if change.path.parent() == Some(dir) {
                self.make_durable(change);
            } else {
                self.name_changes.push(change);
            }
        }
        self.collect();
        Ok(())
    }

    pub(super) fn lock(&mut self, dir: &Path) -> io::Result<u64> {
        if self.locked.insert(dir.to_owned()) {
            Ok(self.life)
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }

    pub(super) fn unlock(&mut self, dir: &Path, life: u64) {
        if life == self.life {
            self.locked.remove(dir);
        }
    }

    /// Writes what there is space for.
    pub(super) fn write(
        &mut self,
        ino: Ino,
        offset: u64,
        bytes: &[u8],
        way: Way,
    ) -> io::Result<()> {
        let end = self.space_end(ino).min(offset + bytes.len() as u64);
        let fits = end.saturating_sub(offset) as usize;
        let mut number = self.number;
        if fits > 0 {
            self.note_trampled(ino, OpKind::Write, offset, fits as u64);
            self.inode(ino)
                .write(offset, &bytes[..fits], way, &mut number);
        }
        self.number = number;
        if fits < bytes.len() {
            return Err(DiskError::NoSpace.into());
        }
        Ok(())
    }

    /// Lends bytes that were read.
    pub(super) fn lend(&mut self, ino: Ino, offset: u64, bytes: Vec<u8>) -> Bytes {
        let life = self.life;
        self.lent.entry(ino).or_default().lend(life, offset, bytes)
    }

    /// Whether somebody holds bytes of a file that were lent in this life.
    pub(super) fn is_held(&mut self, ino: Ino) -> bool {
        let life = self.life;
        let lent = self.lent.get_mut(&ino);
        lent.is_some_and(|lent| lent.is_held(life))
    }

    /// Notes that bytes are about to be overwritten, if somebody holds some of them.
    pub(super) fn note_trampled(&mut self, ino: Ino, kind: OpKind, offset: u64, bytes: u64) {
        let range = offset..offset.saturating_add(bytes);
        let lent = self.lent.get_mut(&ino);
        if self.trampled.is_none() && lent.is_some_and(|lent| lent.is_held_in(&range)) {
            self.trampled = Some(Op {
                kind,
                path: self.inode(ino).path.clone(),
                offset,
                bytes,
            });
        }
    }

    /// Makes a file longer, as far as there is space.
    pub(super) fn grow(&mut self, ino: Ino, bytes: u64) -> io::Result<()> {
        let end = self.space_end(ino).min(bytes);
        let mut number = self.number;
        let file = self.inode(ino);
        if end > file.live.bytes {
            file.grow(end, &mut number);
        }
        self.number = number;
        if end < bytes {
            return Err(DiskError::NoSpace.into());
        }
        Ok(())
    }

    /// Whether a file may become so long.
    pub(super) fn check_space(&mut self, ino: Ino, bytes: u64) -> io::Result<()> {
        if self.space_end(ino) < bytes {
            return Err(DiskError::NoSpace.into());
        }
        Ok(())
    }

    pub(super) fn used_bytes(&self) -> u64 {
        let named: BTreeSet<Ino> = self.names.values().copied().collect();
        let files = self.inodes.iter();
        files
            .filter(|(ino, file)| file.opens > 0 || named.contains(ino))
            .map(|(_, file)| in_blocks(file.live.bytes))
            .sum()
    }

    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (path, ino) in &self.durable_names {
            let file = &self.inodes[ino].durable;
            (path, file.bytes).hash(&mut hasher);
            file.visit_blocks(|number, block| (number, block).hash(&mut hasher));
        }
        hasher.finish()
    }

    pub(super) fn overwrite(&mut self, path: &Path, offset: u64, bytes: &[u8]) -> bool {
        let file = self.named_mut(path);
        file.map(|file| file.overwrite(offset, bytes)).is_some()
    }

    pub(super) fn inode(&mut self, ino: Ino) -> &mut Inode {
        let file = self.inodes.get_mut(&ino);
        file.expect("an inode stays while a name or a handle leads to it")
    }

    pub(super) fn named(&self, path: &Path) -> Option<&Inode> {
        self.inodes.get(self.names.get(path)?)
    }

    pub(super) fn named_mut(&mut self, path: &Path) -> Option<&mut Inode> {
        self.inodes.get_mut(self.names.get(path)?)
    }

    pub(super) fn pending(&self) -> Vec<Pending> {
        let changes = self.changes_in_order();
        changes.into_iter().map(|(_, pending)| pending).collect()
    }

    pub(super) fn cut_power(&mut self, survivors: &Survivors) {
        let changes = self.changes_in_order();
        let is_block = |pending: &Pending| matches!(pending.what, PendingChange::Block(_));
        let are_blocks: Vec<bool> = changes.iter().map(|(_, it)| is_block(it)).collect();
        let numbers = changes.iter().map(|(number, _)| *number);
        let chosen: BTreeMap<u64, u8> = numbers.zip(survivors.choose(&are_blocks)).collect();
        let survives = |number| chosen.get(&number).copied().unwrap_or_default();
        for change in std::mem::take(&mut self.name_changes) {
            let has_needed = change.needs.is_none_or(|needed| survives(needed) > 0);
            if survives(change.number) > 0 && has_needed {
                self.make_durable(change);
            }
        }
        for file in self.inodes.values_mut() {
            file.cut_power(survives);
        }
        self.names = self.durable_names.clone();
        self.end_life();
    }

    /// Handles and locks of before mean nothing any more.
    pub(super) fn end_life(&mut self) {
        self.life += 1;
        self.locked.clear();
        self.changes_left = None;
        self.inodes.values_mut().for_each(|file| file.opens = 0);
        self.collect();
    }

    /// How long a file may become at most.
    fn space_end(&mut self, ino: Ino) -> u64 {
        let Some(capacity_bytes) = self.capacity_bytes else {
            return u64::MAX;
        };
        let left = capacity_bytes.saturating_sub(self.used_bytes());
        let taken = in_blocks(self.inode(ino).live.bytes);
        taken + left / BLOCK_BYTES as u64 * BLOCK_BYTES as u64
    }

    /// Changes where a name leads. Returns the number of the change.
    fn change_name(&mut self, path: &Path, to: Option<Ino>, needs: Option<u64>) -> u64 {
        match to {
            Some(ino) => drop(self.names.insert(path.to_owned(), ino)),
            None => drop(self.names.remove(path)),
        }
        let number = self.number;
        self.number += 1;
        self.name_changes.push(NameChange {
            number,
            path: path.to_owned(),
            to,
            needs,
        });
        number
    }

    fn make_durable(&mut self, change: NameChange) {
        match change.to {
            Some(ino) => drop(self.durable_names.insert(change.path, ino)),
            None => drop(self.durable_names.remove(&change.path)),
        }
    }

    /// All that is not durable, by its number.
    fn changes_in_order(&self) -> Vec<(u64, Pending)> {
        let mut changes = Vec::new();
        for change in &self.name_changes {
            let what = match change.to {
                Some(_) => PendingChange::NameAdded,
                None => PendingChange::NameRemoved,
            };
            let path = change.path.clone();
            changes.push((change.number, Pending { path, what }));
        }
        for file in self.inodes.values() {
            for change in &file.pending {
                let what = match change.what {
                    What::Block(block, _) => PendingChange::Block(block * BLOCK_BYTES as u64),
                    What::Bytes(bytes) => PendingChange::Size(bytes),
                };
                let path = file.path.clone();
                changes.push((change.number, Pending { path, what }));
            }
        }
        changes.sort_unstable_by_key(|(number, _)| *number);
        changes
    }

    /// Forgets the files that nothing leads to.
    fn collect(&mut self) {
        let changes = self.name_changes.iter().filter_map(|change| change.to);
        let names = self.names.values().chain(self.durable_names.values());
        let used: BTreeSet<Ino> = names.copied().chain(changes).collect();
        self.inodes
            .retain(|ino, file| file.opens > 0 || used.contains(ino));
        let inodes = &self.inodes;
        self.lent.retain(|ino, _| inodes.contains_key(ino));
    }
}

fn in_blocks(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES as u64)
}
