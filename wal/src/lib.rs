//! Placeholder.
mod ids;
pub use ids::GroupId;
