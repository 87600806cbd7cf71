//! Writes the seeds of all corpora: `cargo run --manifest-path fuzz/Cargo.toml --example seeds`.

use std::path::Path;

use quorate_fuzz::{TARGETS, seeds::seeds};

fn main() -> std::io::Result<()> {
    for (target, _) in TARGETS {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(target);
        std::fs::create_dir_all(&dir)?;
        for (name, bytes) in seeds(target) {
            std::fs::write(dir.join(name), &bytes)?;
            println!("corpus/{target}/{name}: {} bytes", bytes.len());
        }
    }
    Ok(())
}
