//! Any bytes as the manifest beside a sound log: nothing is lost unless that is said.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    quorate_fuzz::manifest(bytes);
});

/// Without the fuzzer: runs the files that are named, so that a crash can be looked at on stable.
#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    quorate_fuzz::run_files(quorate_fuzz::manifest)
}
