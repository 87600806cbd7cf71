//! Fixed-width little-endian numbers and the CRC of the format.
//!
//! Everything in the log is made of these, in multiples of 8 bytes, so that fields stand on their
//! natural boundary.

/// Takes numbers off the front of bytes that may be damaged: what is not there is `None`, never a
/// panic.
pub(crate) struct Take<'a> {
    bytes: &'a [u8],
}

impl<'a> Take<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.bytes.split_at_checked(len)?;
        self.bytes = tail;
        Some(head)
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

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.bytes.split_first_chunk::<N>()?;
        self.bytes = tail;
        Some(*head)
    }
}

/// Appends numbers to a buffer.
pub(crate) trait Put {
    fn put_u8(&mut self, value: u8);
    fn put_u16(&mut self, value: u16);
    fn put_u32(&mut self, value: u32);
    fn put_u64(&mut self, value: u64);
    /// Appends zeros up to a multiple of `unit` bytes.
    fn pad_to(&mut self, unit: usize);
}

impl Put for Vec<u8> {
    fn put_u8(&mut self, value: u8) {
        self.push(value);
    }

    fn put_u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn pad_to(&mut self, unit: usize) {
        self.resize(self.len().next_multiple_of(unit), 0);
    }
}

/// The CRC of `numbers`, as little-endian 64-bit words, followed by `bytes`. The numbers say where
/// the bytes belong, so that bytes that are whole but stand in the wrong place do not pass.
pub(crate) fn crc_bound(numbers: &[u64], bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for number in numbers {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_is_the_ieee_one() {
        assert_eq!(
            crc_bound(&[], b"123456789"),
            0xcbf4_3926,
            "the check value of CRC-32/ISO-HDLC"
        );
        assert_eq!(
            crc_bound(&[0x0807_0605_0403_0201], b"x"),
            crc_bound(&[], b"\x01\x02\x03\x04\x05\x06\x07\x08x")
        );
    }

    #[test]
    fn what_is_not_there_is_none() {
        let mut take = Take::new(&[1, 2, 3]);
        assert_eq!(take.u32(), None);
        assert_eq!(take.u16(), Some(0x0201));
        assert_eq!(take.bytes(2), None);
        assert_eq!(take.u8(), Some(3));
        assert!(take.is_empty());
    }
}
