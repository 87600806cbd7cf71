//! What others wrote does nothing to the terminal of whoever looks at it, on whichever way it is printed.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::lone::Lone;
use crate::run::{Finished, Running, finish, quorate, tool};

/// One of each kind that a terminal would obey, and bytes that are no text: half a surrogate, and one of Latin-1.
const HOSTILE: &[u8] =
    b"h\x1b]0;OWNED\x07\x08\x7f\r\n\xc2\x9b31m\xe2\x80\xae\xe2\x81\xa6\xe2\x80\x8f\
                         \xe2\x80\xa8\xe2\x80\xa9\xd8\x9c\xed\xa0\x80\xff!";

/// The same as far as it is text: only such names are listed.
fn hostile_text() -> String {
    String::from_utf8(HOSTILE.split_at(HOSTILE.len() - 5).0.to_vec()).unwrap()
}

fn hostile() -> OsString {
    OsString::from_vec(HOSTILE.to_vec())
}

fn is_obeyed(character: char) -> bool {
    let code = u32::from(character);
    let ranges = [
        0..=0x1f,
        0x7f..=0x9f,
        0x61c..=0x61c,
        0x200e..=0x200f,
        0x2028..=0x202e,
        0x2066..=0x2069,
    ];
    ranges.iter().any(|range| range.contains(&code))
}

/// Asserts that it is text of which a terminal obeys nothing but line breaks and tabs, and that the hostile name is in it.
fn assert_tame(what: &str, printed: &[u8]) {
    let text = std::str::from_utf8(printed);
    let text = text.unwrap_or_else(|error| panic!("{what}: {error}: {printed:?}"));
    let obeyed = text
        .chars()
        .find(|&it| is_obeyed(it) && it != '\n' && it != '\t');
    assert_eq!(obeyed, None, "{what}: {text:?}");
}

const ON_A_TERMINAL: &str = "get, on a terminal";

/// Both of what it printed, and that it quotes what it was given, on the line that it began.
fn assert_tame_quote(what: &str, finished: &Finished) {
    assert_tame(what, &finished.stdout_bytes);
    assert_tame(what, &finished.stderr_bytes);
    let all = format!("{}{}", finished.stdout, finished.stderr);
    assert!(all.contains("OWNED"), "{what} does not quote it: {all}");
    // The line breaks of a value are its own, where nothing but the value is printed.
    assert!(
        what == ON_A_TERMINAL || !all.lines().any(|line| line.starts_with("\\u{9b}31m")),
        "{what} broke the line: {all}"
    );
}

/// The names of all commands, as the help lists them.
fn commands() -> BTreeSet<String> {
    let help = quorate(&["--help"]).stdout;
    let listed = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"));
    let listed = listed.skip(1).take_while(|line| line.starts_with("  "));
    listed
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .filter(|name| name != "help")
        .collect()
}

/// Whoever adds a command shows here that what it prints is tame.
#[test]
fn no_command_prints_what_a_terminal_obeys() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join(hostile());
    let mut shown = BTreeSet::new();

    let lone = Lone::start(&data);
    for (command, finished) in calls(&lone) {
        shown.extend(command.split(',').next().map(str::to_owned));
        assert_tame_quote(command, &finished);
    }
    let again = quorate(&crate::run::Node::arguments(1, &data, "1=127.0.0.1:1"));
    assert_eq!(again.code, Some(1), "{again:?}");
    assert_tame_quote("node that is refused", &again);
    let bench = lone.call(&["bench", "--seconds", "1", "--outstanding", "4"]);
    assert_eq!(bench.code, Some(0), "{bench:?}");
    assert_tame("bench", &[bench.stdout_bytes, bench.stderr_bytes].concat());
    shown.insert("bench".to_owned());

    let said = lone.node.end_in_order();
    assert!(said.iter().any(|line| line.contains("OWNED")), "{said:?}");
    for line in &said {
        assert_tame("node", line.as_bytes());
    }
    shown.insert("node".to_owned());

    for (command, finished) in looks(&data) {
        shown.insert(command.to_owned());
        assert_tame_quote(command, &finished);
    }
    assert_eq!(shown, commands(), "a command that is not looked at here");
}

/// Calls with a hostile key and value, each of which prints one of them.
fn calls(lone: &Lone) -> Vec<(&'static str, Finished)> {
    let (key, command) = (hostile(), |name: &str| OsString::from(name));
    let value = hostile();
    let stored = lone.call(&[command("put"), key.clone(), value.clone()]);
    assert_eq!(stored.code, Some(0), "{stored:?}");
    let raw = lone.call(&[command("get"), key.clone()]);
    assert_eq!(raw.stdout_bytes, [HOSTILE, b"\n"].concat(), "to a pipe");
    let raw = lone.call(&[command("get"), key.clone(), command("--raw")]);
    assert_eq!(raw.stdout_bytes, HOSTILE, "to a pipe");
    let unexpected = [
        command("cas"),
        key.clone(),
        command("x"),
        command("--absent"),
    ];
    // What a wrong argument is called is printed too.
    let address = OsString::from(hostile_text());
    let wrong = |name: &str| quorate(&[command(name), command("--connect"), address.clone()]);
    vec![
        (ON_A_TERMINAL, on_a_terminal(lone, &key)),
        ("scan", lone.call(&["scan"])),
        ("cas", lone.call(&unexpected)),
        ("put", wrong("put")),
        ("append", wrong("append")),
        ("delete", wrong("delete")),
        ("get", wrong("get")),
        ("bench", wrong("bench")),
    ]
}

/// Looks at the files of a node that was stopped, sound and damaged, for people and for programs.
fn looks(data: &Path) -> Vec<(&'static str, Finished)> {
    let stray = data.join("wal").join(format!("{}.seg", hostile_text()));
    fs::write(stray, "nothing").unwrap();
    let missing = data.join("not there");
    let looks: [(&str, &[&str]); 7] = [
        ("inspect", &["inspect"]),
        ("inspect", &["inspect", "--json"]),
        ("inspect", &["inspect", "--batches", "77"]),
        ("verify", &["verify"]),
        ("verify", &["verify", "--json"]),
        ("repair", &["repair", "--dry-run"]),
        ("repair", &["repair", "--dry-run", "--json"]),
    ];
    let mut found = Vec::new();
    let run = |arguments: &[&str], dir: &Path| {
        let given = arguments.iter().map(OsString::from);
        let all: Vec<OsString> = given.chain([dir.into()]).collect();
        quorate(&all)
    };
    for (command, arguments) in looks {
        found.push((command, run(arguments, data)));
        found.push((command, run(arguments, &missing)));
    }
    for file in [
        newest(&data.join("wal"), ".seg"),
        data.join("wal/MANIFEST-a"),
    ] {
        let mut bytes = fs::read(&file).unwrap();
        let at = bytes.len() / 2;
        bytes[..at].fill(0x5a);
        fs::write(&file, bytes).unwrap();
    }
    for (command, arguments) in looks {
        found.push((command, run(arguments, data)));
    }
    found
}

/// The first file with such a name that is the log's own.
fn newest(dir: &Path, end: &str) -> PathBuf {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_own = |path: &PathBuf| {
        let name = path.file_name().unwrap_or(OsStr::new("")).as_bytes();
        name.starts_with(b"0") && name.ends_with(end.as_bytes())
    };
    entries.filter(is_own).min().unwrap()
}

/// `get` with a terminal for its standard output. What it printed there is returned as its standard output.
fn on_a_terminal(lone: &Lone, key: &OsStr) -> Finished {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = OsStr::from_bytes(name.as_bytes());
    let slave = File::options().read(true).write(true).open(slave).unwrap();
    let mut command = tool(&lone.arguments(&[OsStr::new("get"), key]));
    command.stdout(Stdio::from(slave));
    let read = thread::spawn(move || {
        let mut printed = Vec::new();
        // Ends with an error when nobody has the other side open any more.
        let _hung_up = File::from(master).read_to_end(&mut printed);
        printed
    });
    let finished = finish(command, b"");
    let printed = read.join().unwrap();
    // The terminal itself makes two characters of a line break.
    let printed = String::from_utf8(printed).unwrap().replace("\r\n", "\n");
    Finished {
        stdout_bytes: printed.clone().into_bytes(),
        stdout: printed,
        ..finished
    }
}

#[test]
fn what_a_user_types_is_quoted_tamely() {
    let text = || OsString::from(hostile_text());
    let wrong: [&[OsString]; 9] = [
        &[text()],
        &["get".into(), "k".into(), text()],
        &["node".into(), "--cluster".into(), text()],
        &["node".into(), "--cluster-id".into(), text()],
        &[hostile()],
        &["get".into(), "k".into(), "--connect".into(), hostile()],
        &[
            "get".into(),
            "--connect=a:1".into(),
            [b"--", HOSTILE].concat().into_os(),
        ],
        &["scan".into(), "--limit".into(), hostile()],
        &["inspect".into(), ".".into(), "--batches".into(), hostile()],
    ];
    for arguments in wrong {
        let finished = quorate(arguments);
        assert_eq!(finished.code, Some(2), "{finished:?}");
        assert_tame(&format!("{arguments:?}"), &finished.stderr_bytes);
        let mut lines = finished.stderr.lines();
        let broken = lines.find(|line| line.starts_with("\\u{9b}31m"));
        assert_eq!(broken, None, "{arguments:?}: {finished:?}");
    }
    let mut command = tool(&["get", "k"]);
    command.env("QUORATE_CONNECT", hostile_text());
    let finished = finish(command, b"");
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert_tame_quote("QUORATE_CONNECT", &finished);
}

trait IntoOs {
    fn into_os(self) -> OsString;
}

impl IntoOs for Vec<u8> {
    fn into_os(self) -> OsString {
        OsString::from_vec(self)
    }
}

/// A reject of a code that nobody knows, in hostile words.
fn reject() -> Vec<u8> {
    let words = hostile_text();
    let mut fields = Vec::new();
    let mut put = |tag: u16, content: &[u8]| {
        fields.extend(tag.to_le_bytes());
        fields.extend((content.len() as u16).to_le_bytes());
        fields.extend(content);
    };
    put(5, words.as_bytes());
    put(6, &[0; 32]);
    let mut bytes = b"QUORATE\n\x02\x00\x02\xc8".to_vec();
    bytes.extend((fields.len() as u32).to_le_bytes());
    bytes.extend(fields);
    let crc = crc(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes
}

/// CRC-32 as in zlib.
fn crc(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    let all = bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), step)
    });
    !all
}

#[test]
fn what_a_server_says_is_quoted_tamely() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // Answers every call until the test ends, and with it the process.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut hello = [0; 16];
            let Ok(mut stream) = stream else { return };
            let _gone = stream
                .read(&mut hello)
                .and_then(|_| stream.write_all(&reject()));
        }
    });
    let arguments = ["get", "k", "--timeout-ms", "300", "--connect", &address];
    let finished = quorate(&arguments);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("code 200"), "{finished:?}");
    assert_tame_quote("a reject", &finished);
}

#[test]
fn a_node_that_nobody_listens_to_serves_on() {
    let dir = tempfile::tempdir().unwrap();
    let address = format!("127.0.0.1:{}", crate::cluster::free_ports()[0]);
    let list = format!("1={address}");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = tool(&crate::run::Node::arguments(1, dir.path(), &list));
    command.stdout(writer);
    let mut node = Running(command.spawn().unwrap());
    drop(command);
    let put = quorate(&[
        "put",
        "k",
        "v",
        "--connect",
        &address,
        "--timeout-ms",
        "60000",
    ]);
    assert_eq!(put.code, Some(0), "{put:?}");
    drop(node.0.stdin.take());
    assert_eq!(node.wait().code(), Some(0));
}
