//! What an input costs in memory, on stable. A test binary of its own, with one test: the peak is that of the process.

use std::path::Path;

use peak_alloc::PeakAlloc;
use quorate_fuzz::TARGETS;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// The files of an input are sparse, and take at most so much: ten of 64 KiB, three times over, with what an open log keeps.
const INPUT_BYTES_MAX: usize = 8 << 20;

#[test]
fn no_input_takes_memory_beyond_what_it_describes() {
    let mut inputs = 0;
    for (target, check) in TARGETS {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(target);
        for file in std::fs::read_dir(corpus).expect("the corpus can be listed") {
            let path = file.expect("the corpus can be listed").path();
            let bytes = std::fs::read(&path).expect("the corpus can be read");
            // What the first run of a target builds once stays.
            check(&bytes);
            let before = ALLOCATED.current_usage();
            ALLOCATED.reset_peak_usage();
            check(&bytes);
            let taken = ALLOCATED.peak_usage().saturating_sub(before);
            assert!(
                taken <= INPUT_BYTES_MAX,
                "{} takes {taken} bytes",
                path.display()
            );
            inputs += 1;
        }
    }
    assert!(inputs > 50, "{inputs}");
}
