//! Text that others wrote, made safe to print: keys and values, names of files, what a peer says.

use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The bytes of an argument, as they were given.
pub(crate) fn bytes(argument: &OsStr) -> &[u8] {
    argument.as_bytes()
}

/// Whether a terminal does something at a character instead of showing it: it obeys it, breaks the line, or turns the
/// text around it to the other direction.
pub(crate) fn is_obeyed(character: char) -> bool {
    // C0, DEL and C1, and what the bidirectional algorithm and line breaking know besides.
    character.is_control()
        || matches!(
            character,
            '\u{61c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'
                | '\u{2029}'
                | '\u{202a}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
        )
}

/// The one place where text is escaped: what is obeyed and not kept, what is marked besides, and bytes that are no UTF-8.
fn escape(bytes: &[u8], kept: &[char], marked: &[char]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            let is_obeyed = is_obeyed(character) && !kept.contains(&character);
            if is_obeyed || marked.contains(&character) {
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

/// Bytes on one line, without tabs. Backslashes are escaped too, so that the bytes can be told from the text.
pub(crate) fn printable(bytes: &[u8]) -> String {
    escape(bytes, &[], &['\\'])
}

/// A path on one line.
pub(crate) fn path(path: &Path) -> String {
    escape(path.as_os_str().as_bytes(), &[], &[])
}

/// A message on one line, whatever is quoted in it.
pub(crate) fn message(text: &str) -> String {
    escape(text.as_bytes(), &[], &[])
}

/// Text of several lines: they stay, and so do tabs.
pub(crate) fn lines(bytes: &[u8]) -> String {
    escape(bytes, &['\n', '\t'], &[])
}

/// JSON in which what a terminal obeys is escaped as JSON does it. Outside of strings there are line breaks alone.
pub(crate) fn json(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if is_obeyed(character) && character != '\n' {
            // None of them is beyond the first plane.
            write!(escaped, "\\u{:04x}", u32::from(character)).expect("a string takes every write");
        } else {
            escaped.push(character);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every character that is named in the list of what must not reach a terminal.
    fn obeyed() -> impl Iterator<Item = char> {
        let ranges = [
            0..=0x1f,
            0x7f..=0x9f,
            0x61c..=0x61c,
            0x200e..=0x200f,
            0x2028..=0x202e,
            0x2066..=0x2069,
        ];
        ranges.into_iter().flatten().filter_map(char::from_u32)
    }

    #[test]
    fn what_is_printed_stays_on_its_line() {
        assert_eq!(
            printable("grün und \"klar\"".as_bytes()),
            "grün und \"klar\""
        );
        assert_eq!(printable(b"a\tb\nc\\d\0"), r"a\tb\nc\\d\u{0}");
        assert_eq!(printable(b"\xff\xfea"), r"\xff\xfea");
    }

    #[test]
    fn no_character_that_a_terminal_obeys_is_printed() {
        for character in obeyed() {
            assert!(is_obeyed(character), "{character:?}");
            let text = format!("a{character}b");
            for escaped in [
                printable(text.as_bytes()),
                message(&text),
                path(Path::new(&text)),
            ] {
                assert!(!escaped.contains(is_obeyed), "{character:?}: {escaped}");
                assert!(escaped.starts_with("a\\") && escaped.ends_with('b'));
            }
            let kept = lines(text.as_bytes());
            assert_eq!(kept == text, matches!(character, '\n' | '\t'), "{kept}");
        }
        for shown in ['\u{200d}', '\u{301}', 'ש', '字', '\u{1f980}'] {
            assert!(!is_obeyed(shown), "{shown:?}");
        }
    }

    #[test]
    fn half_a_surrogate_is_shown_as_its_bytes() {
        assert_eq!(printable(b"\xed\xa0\x80"), r"\xed\xa0\x80");
        assert_eq!(lines(b"a\n\xed\xbf\xbf"), "a\n\\xed\\xbf\\xbf");
    }

    #[test]
    fn json_says_the_same_when_it_is_escaped() {
        let text: String = obeyed().collect();
        let value = serde_json::json!({ "text": text });
        let escaped = json(&format!("{value:#}"));
        assert!(
            !escaped.contains(|it| is_obeyed(it) && it != '\n'),
            "{escaped}"
        );
        let read: serde_json::Value = serde_json::from_str(&escaped).expect("JSON");
        assert_eq!(read, value);
    }

    #[test]
    fn a_message_keeps_its_backslashes() {
        assert_eq!(message("a\\b\u{1b}[31m"), "a\\b\\u{1b}[31m");
    }
}
