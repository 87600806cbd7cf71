//! Any bytes as the footer of a sealed segment: no entry comes back as another one.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    quorate_fuzz::footer(bytes);
});

/// Without the fuzzer: runs the files that are named, so that a crash can be looked at on stable.
#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    quorate_fuzz::run_files(quorate_fuzz::footer)
}
