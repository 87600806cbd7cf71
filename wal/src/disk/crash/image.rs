//! One file, as its readers see it and as the device has it.
//!
//! Invariants:
//! - What is in the cache and not on the device is in `pending`, or was lost by a fault.
//! - A change in `pending` holds its whole block as it was in the cache when it was made, because
//!   the kernel writes back whole pages: a page that is written twice carries the first write too.
//! - `pending` is in the order in which the changes were made.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// The unit in which the cache is written back.
pub(super) const BLOCK_BYTES: usize = 4096;

/// The unit that a device writes whole or not at all.
const SECTOR_BYTES: usize = 512;

type Block = [u8; BLOCK_BYTES];

const ZEROS: Block = [0; BLOCK_BYTES];

/// Bytes of a file. Blocks are shared between images until one of them is written to.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub(super) bytes: u64,
    /// The blocks that were written; all others are zeros.
    blocks: BTreeMap<u64, Arc<Block>>,
}

/// A file, whatever its names are.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    /// Its last name, for messages.
    pub(super) path: PathBuf,
    pub(super) live: Image,
    pub(super) durable: Image,
    pub(super) pending: Vec<Change>,
    /// Handles that are open.
    pub(super) opens: u64,
}

/// What may become durable by itself at any time.
#[derive(Clone, Debug)]
pub(super) struct Change {
    /// Its place among all changes of the disk.
    pub(super) number: u64,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    /// This block got this content.
    Block(u64, Arc<Block>),
    /// The file became so long.
    Bytes(u64),
}

/// What becomes of a write below the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// It waits to be written back.
    Pending,
    /// It never gets to the device, and nobody is told.
    Lost,
    /// It gets to another block, so many behind its own.
    Misdirected(i64),
}

impl Image {
    /// Fills the buffer. False if the image ends before.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> bool {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.bytes) {
            return false;
        }
        let mut offset = offset as usize;
        let mut left = buffer;
        while !left.is_empty() {
            let within = offset % BLOCK_BYTES;
            let len = left.len().min(BLOCK_BYTES - within);
            let (head, tail) = left.split_at_mut(len);
            head.copy_from_slice(&self.block((offset / BLOCK_BYTES) as u64)[within..within + len]);
            left = tail;
            offset += len;
        }
        true
    }

    /// Fills the buffer with what stands so many blocks behind the offset, if that is in the image.
    pub(super) fn read_elsewhere(&self, offset: u64, by: i64, buffer: &mut [u8]) {
        let (block, within) = (offset / BLOCK_BYTES as u64, offset % BLOCK_BYTES as u64);
        let other = block.checked_add_signed(by);
        if let Some(start) = other.and_then(|other| other.checked_mul(BLOCK_BYTES as u64)) {
            // What is outside of it leaves the buffer as it is.
            let _is_inside = self.read(start + within, buffer);
        }
    }

    /// All of it.
    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes as usize];
        let is_read = self.read(0, &mut bytes);
        assert!(is_read, "the buffer is as long as the image");
        bytes
    }

    /// Shows the blocks that are not zeros, in order.
    pub(super) fn visit_blocks(&self, mut visit: impl FnMut(u64, &Block)) {
        let used = self.blocks.iter().filter(|(_, block)| ***block != ZEROS);
        used.for_each(|(&number, block)| visit(number, block));
    }

    /// Puts bytes into the image, which grows if need be. Returns the blocks that have new content.
    fn put(&mut self, offset: u64, bytes: &[u8]) -> Vec<(u64, Arc<Block>)> {
        self.bytes = self.bytes.max(offset + bytes.len() as u64);
        let mut changed = Vec::new();
        let mut left = bytes;
        let mut offset = offset as usize;
        while !left.is_empty() {
            let within = offset % BLOCK_BYTES;
            let (head, tail) = left.split_at(left.len().min(BLOCK_BYTES - within));
            let number = (offset / BLOCK_BYTES) as u64;
            let mut content = *self.block(number);
            content[within..within + head.len()].copy_from_slice(head);
            let content = Arc::new(content);
            self.blocks.insert(number, Arc::clone(&content));
            changed.push((number, content));
            left = tail;
            offset += head.len();
        }
        changed
    }

    fn block(&self, number: u64) -> &Block {
        self.blocks.get(&number).map_or(&ZEROS, |block| block)
    }

    /// What lies behind the end is gone, and is zeros if the file grows again.
    fn cut(&mut self, bytes: u64) {
        self.bytes = bytes;
        let kept = (bytes as usize % BLOCK_BYTES, bytes / BLOCK_BYTES as u64);
        self.blocks.split_off(&bytes.div_ceil(BLOCK_BYTES as u64));
        if let (1.., last) = kept
            && let Some(block) = self.blocks.get_mut(&last)
        {
            Arc::make_mut(block)[kept.0..].fill(0);
        }
    }

    /// Takes over the sectors of a change that a mask says survive.
    fn apply(&mut self, what: &What, sectors: u8) {
        match what {
            What::Bytes(bytes) => self.bytes = *bytes,
            What::Block(number, block) if sectors == u8::MAX => {
                self.blocks.insert(*number, Arc::clone(block));
            }
            What::Block(number, block) => {
                let torn = self.blocks.entry(*number).or_insert(Arc::new(ZEROS));
                let torn = Arc::make_mut(torn).chunks_mut(SECTOR_BYTES);
                for (sector, (old, new)) in torn.zip(block.chunks(SECTOR_BYTES)).enumerate() {
                    if sectors & 1 << sector != 0 {
                        old.copy_from_slice(new);
                    }
                }
            }
        }
    }
}

impl Inode {
    /// Writes bytes, in front of or behind the end. `number` numbers the changes.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8], way: Way, number: &mut u64) {
        let had = self.live.bytes;
        for (block, content) in self.live.put(offset, bytes) {
            match way {
                Way::Pending => self.push_block(block, content, number),
                Way::Lost => {}
                Way::Misdirected(by) => {
                    if let Some(other) = block.checked_add_signed(by) {
                        self.push_block(other, content, number);
                    }
                }
            }
        }
        if self.live.bytes > had {
            self.push(What::Bytes(self.live.bytes), number);
        }
    }

    /// Puts bytes into the cache and on the device at once.
    pub(super) fn overwrite(&mut self, offset: u64, bytes: &[u8]) {
        self.live.put(offset, bytes);
        self.durable.put(offset, bytes);
    }

    /// Makes the file so long, with zeros at the end. Zeros where the device has zeros change
    /// nothing, so only the size waits.
    pub(super) fn grow(&mut self, bytes: u64, number: &mut u64) {
        assert!(bytes > self.live.bytes);
        self.live.bytes = bytes;
        self.push(What::Bytes(bytes), number);
    }

    /// Takes all content away, in the cache and on the device, as truncation does.
    pub(super) fn cut(&mut self, bytes: u64) {
        self.live.cut(bytes);
        self.durable.cut(bytes.min(self.durable.bytes));
        self.pending.retain(|change| match change.what {
            What::Block(block, _) => block < bytes.div_ceil(BLOCK_BYTES as u64),
            What::Bytes(grown) => grown <= bytes,
        });
    }

    /// Everything that waits is on the device.
    pub(super) fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            self.durable.apply(&change.what, u8::MAX);
        }
    }

    /// The device refused what waited: the kernel reports it once, and takes the pages for clean.
    pub(super) fn fail_sync(&mut self) {
        self.pending
            .retain(|change| matches!(change.what, What::Bytes(_)));
    }

    /// The cache forgets all pages that are clean.
    pub(super) fn drop_cache(&mut self) {
        let mut live = self.durable.blocks.clone();
        for change in &self.pending {
            if let What::Block(block, content) = &change.what {
                live.insert(*block, Arc::clone(content));
            }
        }
        self.live.blocks = live;
    }

    /// The power went off: of each change that waited, these sectors are on the device.
    pub(super) fn cut_power(&mut self, survives: impl Fn(u64) -> u8) {
        for change in std::mem::take(&mut self.pending) {
            match (survives(change.number), &change.what) {
                (0, _) => {}
                (sectors, what) => self.durable.apply(what, sectors),
            }
        }
        self.durable.cut(self.durable.bytes);
        self.live = self.durable.clone();
        self.opens = 0;
    }

    /// A block that the device has already changes nothing, and does not wait.
    fn push_block(&mut self, block: u64, content: Arc<Block>, number: &mut u64) {
        let waits =
            |change: &Change| matches!(change.what, What::Block(other, _) if other == block);
        if *self.durable.block(block) != *content || self.pending.iter().any(waits) {
            self.push(What::Block(block, content), number);
        }
    }

    fn push(&mut self, what: What, number: &mut u64) {
        self.pending.push(Change {
            number: *number,
            what,
        });
        *number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(durable: &[u8]) -> (Inode, u64) {
        let mut file = Inode::default();
        let mut number = 0;
        file.write(0, durable, Way::Pending, &mut number);
        file.sync();
        (file, number)
    }

    #[test]
    fn blocks_survive_one_by_one_and_torn_at_sectors() {
        let (mut file, mut number) = file(&[1; 3 * BLOCK_BYTES]);
        let first = number;
        file.write(100, &[2; 2 * BLOCK_BYTES], Way::Pending, &mut number);
        assert_eq!(number - first, 3);
        assert_eq!(file.live.to_vec()[100], 2);
        assert_eq!(file.durable.to_vec(), [1; 3 * BLOCK_BYTES]);
        file.cut_power(|change| [0b10, 0, 0xff][(change - first) as usize]);
        let mut expected = vec![1; 3 * BLOCK_BYTES];
        expected[512..1024].fill(2);
        expected[2 * BLOCK_BYTES..][..100].fill(2);
        assert_eq!(file.durable.to_vec(), expected);
        assert_eq!(file.live.to_vec(), expected);
    }

    #[test]
    fn a_block_whose_size_was_lost_is_gone_and_is_zeros_when_the_file_grows() {
        let (mut file, mut number) = file(&[1; 100]);
        let first = number;
        file.write(50, &[2; 100], Way::Pending, &mut number);
        file.cut_power(|change| if change == first { 0xff } else { 0 });
        let mut expected = [1; 100];
        expected[50..].fill(2);
        assert_eq!(file.durable.to_vec(), expected);
        file.grow(200, &mut number);
        assert_eq!(file.live.to_vec()[100..], [0; 100]);
    }

    #[test]
    fn a_failed_sync_leaves_the_bytes_in_the_cache_until_it_is_dropped() {
        let (mut file, mut number) = file(&[1; BLOCK_BYTES]);
        file.write(0, &[2; BLOCK_BYTES], Way::Pending, &mut number);
        file.fail_sync();
        file.sync();
        assert_eq!(file.live.to_vec(), [2; BLOCK_BYTES]);
        assert_eq!(file.durable.to_vec(), [1; BLOCK_BYTES]);
        file.drop_cache();
        assert_eq!(file.live.to_vec(), [1; BLOCK_BYTES]);
    }

    #[test]
    fn dropping_the_cache_keeps_what_waits() {
        let (mut file, mut number) = file(&[1; 2 * BLOCK_BYTES]);
        file.write(0, &[2; BLOCK_BYTES], Way::Pending, &mut number);
        file.drop_cache();
        assert_eq!(file.live.to_vec()[..BLOCK_BYTES], [2; BLOCK_BYTES]);
        assert_eq!(file.live.to_vec()[BLOCK_BYTES..], [1; BLOCK_BYTES]);
    }

    #[test]
    fn what_the_device_has_already_does_not_wait() {
        let (mut file, mut number) = file(&[1; BLOCK_BYTES]);
        file.write(0, &[1; BLOCK_BYTES], Way::Pending, &mut number);
        assert!(file.pending.is_empty());
        file.write(0, &[2; BLOCK_BYTES], Way::Pending, &mut number);
        file.write(0, &[1; BLOCK_BYTES], Way::Pending, &mut number);
        assert_eq!(file.pending.len(), 2, "either of them may be written back");
    }
}
