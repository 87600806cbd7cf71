//! How many bytes a disk was given, as the kernel counts them.
//!
//! `write_bytes` of `/proc/self/io` would say who wrote them, but counts all of a large folio when
//! a block of it is written to: hundreds of times too much for what a log does.

use std::path::Path;

use quorate_benches::Failure;

/// `/proc/diskstats` counts in these, whatever the device has.
const SECTOR_BYTES: u64 = 512;

/// Bytes that the device below a folder was given so far, by everybody; none if it is not known.
pub(crate) fn device_bytes(root: &Path) -> Result<Option<u64>, Failure> {
    let device = rustix::fs::stat(root)?.st_dev;
    let number = (rustix::fs::major(device), rustix::fs::minor(device));
    let stats = std::fs::read_to_string("/proc/diskstats");
    Ok(stats.ok().and_then(|text| parse(&text, number)))
}

/// The tenth field is sectors written (Documentation/admin-guide/iostats.rst).
fn parse(text: &str, (major, minor): (u32, u32)) -> Option<u64> {
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
    fn the_sectors_of_a_device_are_read_from_its_line() {
        let stats = " 7 0 loop0 0 0 0 0 0 0 0 0\n \
                     254 0 vda 9797 4354 3172810 6481 2323 11219 1460216 3932 0\n";
        assert_eq!(parse(stats, (254, 0)), Some(1_460_216 * 512));
        assert_eq!(parse(stats, (254, 1)), None);
    }
}
