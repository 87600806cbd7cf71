//! What the crate promises, tested through its public surface.

mod common;
mod documented;
mod hostile;
mod map;
mod sessions;
