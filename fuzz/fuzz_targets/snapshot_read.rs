//! Any bytes as a snapshot file: what is read was checked, or nothing is read.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    quorate_fuzz::snapshot_read(bytes);
});

/// Without the fuzzer: runs the files that are named, so that a crash can be looked at on stable.
#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    quorate_fuzz::run_files(quorate_fuzz::snapshot_read)
}
