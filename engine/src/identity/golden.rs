//! The identity of every version, as files that are never changed: `engine/tests/golden/v1/identity.hex`.

use std::fs;
use std::io::Write;

use super::*;

fn path_of(version: u16) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    PathBuf::from(format!("{folder}/v{version}/identity.hex"))
}

fn identity_v1() -> IdentityV1 {
    IdentityV1 {
        cluster_id: 0x0102_0304_0506_0708,
        node: 2,
        groups: 300,
        members: vec![1, 2, 300],
    }
}

fn identity() -> Identity {
    Identity {
        cluster_id: 0x0102_0304_0506_0708,
        node: 2,
        groups: 300,
        incarnation: 0x1112_1314_1516_1718,
    }
}

fn golden(version: u16) -> Vec<u8> {
    let text = fs::read_to_string(path_of(version)).expect("it is kept");
    let digits = text.trim_end();
    let digit = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal");
    (0..digits.len()).step_by(2).map(digit).collect()
}

#[test]
fn the_identity_of_version_1_is_understood() {
    let found = decode(Path::new("IDENTITY"), &golden(1)).expect("an older version is read");
    assert_eq!(found, Found::Old(identity_v1()));
}

#[test]
fn the_identity_of_version_2_is_the_one_written() {
    let found = decode(Path::new("IDENTITY"), &golden(2)).expect("the present version is read");
    assert_eq!(found, Found::Present(identity()));
    assert_eq!(identity().encode(), golden(2));
}

#[test]
#[ignore = "writes the golden file of a new version"]
fn write_identity() {
    let path = path_of(VERSION);
    if path.exists() {
        return;
    }
    let bytes = identity().encode();
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    fs::create_dir_all(path.parent().expect("it has a folder")).expect("writable");
    let mut file = fs::File::create_new(path).expect("it did not exist");
    file.write_all(format!("{}\n", digits.concat()).as_bytes())
        .expect("writable");
}
