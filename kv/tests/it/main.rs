//! What the crate promises, tested through its public surface.

mod common;
mod documented;
mod golden;
mod hostile;
mod map;
mod sessions;
