//! Any bytes as the files of a log, with checksums made right: opening never panics, and opening again finds the same.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    quorate_fuzz::log_recover_fixed(bytes);
});

/// Without the fuzzer: runs the files that are named, so that a crash can be looked at on stable.
#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    quorate_fuzz::run_files(quorate_fuzz::log_recover_fixed)
}
