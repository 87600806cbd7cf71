//! Fixed-width little-endian fields, read with every bound checked.

use std::io;

use crate::machine::RestoreError;

/// Takes fields off the front of a slice. `None` means that the slice is too short.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

/// Reads exactly `N` bytes.
pub(crate) fn read_array<const N: usize>(
    source: &mut dyn io::Read,
) -> Result<[u8; N], RestoreError> {
    let mut bytes = [0; N];
    source.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Reads exactly `len` bytes. Memory grows with what arrives, so a length that lies reserves at
/// most one step.
pub(crate) fn read_bytes(source: &mut dyn io::Read, len: usize) -> Result<Vec<u8>, RestoreError> {
    const STEP_BYTES: usize = 64 * 1024;
    let mut bytes = Vec::with_capacity(len.min(STEP_BYTES));
    while bytes.len() < len {
        let filled = bytes.len();
        let step = (len - filled).min(STEP_BYTES.max(filled));
        bytes.reserve_exact(step);
        bytes.resize(filled + step, 0);
        source.read_exact(&mut bytes[filled..])?;
    }
    Ok(bytes)
}

/// Fails unless the source is at its end.
pub(crate) fn expect_end(source: &mut dyn io::Read) -> Result<(), RestoreError> {
    let mut byte = [0; 1];
    match source.read(&mut byte)? {
        0 => Ok(()),
        _ => Err(RestoreError::Malformed {
            what: "bytes follow its end",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends after some bytes, and counts those that it was asked for.
    struct Short {
        left: usize,
        asked: usize,
    }

    impl io::Read for Short {
        fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
            self.asked += target.len();
            let given = target.len().min(self.left);
            self.left -= given;
            Ok(given)
        }
    }

    #[test]
    fn a_length_that_lies_makes_no_room_for_bytes_that_do_not_come() {
        for left in [0, 10, 100_000, 1_000_000] {
            let mut source = Short { left, asked: 0 };
            let result = read_bytes(&mut source, u32::MAX as usize);
            assert!(matches!(result, Err(RestoreError::Truncated)));
            assert!(
                source.asked <= 4 * left + 128 * 1024,
                "room for {} bytes",
                source.asked
            );
        }
    }

    #[test]
    fn as_many_bytes_as_asked_for_are_read() {
        let content: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
        for len in [0, 1, 65_536, 65_537, 300_000] {
            assert_eq!(read_bytes(&mut &content[..], len).unwrap(), content[..len]);
        }
    }
}
