//! Any bytes from the network: frames or errors, and each frame has one encoding.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    quorate_fuzz::frame_decode(bytes);
});

/// Without the fuzzer: runs the files that are named, so that a crash can be looked at on stable.
#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    quorate_fuzz::run_files(quorate_fuzz::frame_decode)
}
