//! How many bytes were written, as the kernel counts them.

use std::path::Path;

use quorate_benches::Failure;

/// Counts since some time before.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Written {
    /// Bytes of pages that this process dirtied, `write_bytes` of `/proc/self/io`.
    pub(crate) process: Option<u64>,
    /// Bytes that the device below a folder was given by everybody, of `/proc/diskstats`.
    pub(crate) device: Option<u64>,
}

/// `/proc/diskstats` counts in these, whatever the device has.
const SECTOR_BYTES: u64 = 512;

impl Written {
    /// The counts as of now.
    pub(crate) fn now(root: &Path) -> Result<Self, Failure> {
        let device = rustix::fs::stat(root)?.st_dev;
        let number = (rustix::fs::major(device), rustix::fs::minor(device));
        let read = |path| std::fs::read_to_string(path).ok();
        Ok(Self {
            process: read("/proc/self/io").and_then(|text| parse_process(&text)),
            device: read("/proc/diskstats").and_then(|text| parse_device(&text, number)),
        })
    }

    /// What was written since, by byte of `bytes`.
    pub(crate) fn since(self, before: Self, bytes: u64) -> (Option<f64>, Option<f64>) {
        let each = |now: Option<u64>, before: Option<u64>| {
            Some(now?.saturating_sub(before?) as f64 / bytes as f64)
        };
        (
            each(self.process, before.process),
            each(self.device, before.device),
        )
    }
}

fn parse_process(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes:"))?;
    line.trim().parse().ok()
}

/// The tenth field is sectors written (Documentation/admin-guide/iostats.rst).
fn parse_device(text: &str, (major, minor): (u32, u32)) -> Option<u64> {
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it = fields.first()?.parse() == Ok(major) && fields.get(1)?.parse() == Ok(minor);
        let sectors: u64 = fields.get(9)?.parse().ok()?;
        is_it.then_some(sectors * SECTOR_BYTES)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_are_read_from_their_places() {
        assert_eq!(
            parse_process("wchar: 5\nwrite_bytes: 4096\ncancelled_write_bytes: 1\n"),
            Some(4096)
        );
        let stats = " 7 0 loop0 0 0 0 0 0 0 0 0\n 254 0 vda 9797 4354 3172810 6481 2323 11219 1460216 3932 0\n";
        assert_eq!(parse_device(stats, (254, 0)), Some(1_460_216 * 512));
        assert_eq!(parse_device(stats, (254, 1)), None);
    }
}
