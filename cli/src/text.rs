//! Keys and values as text.

use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

/// The bytes of an argument, as they were given.
pub(crate) fn bytes(argument: &OsStr) -> &[u8] {
    argument.as_bytes()
}

/// Bytes on one line, without tabs: control characters and backslashes are escaped, and all bytes that are no UTF-8.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || character == '\\' {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("a string takes every write");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_stays_on_its_line() {
        assert_eq!(
            printable("grün und \"klar\"".as_bytes()),
            "grün und \"klar\""
        );
        assert_eq!(printable(b"a\tb\nc\\d\0"), r"a\tb\nc\\d\u{0}");
        assert_eq!(printable(b"\xff\xfea"), r"\xff\xfea");
    }
}
