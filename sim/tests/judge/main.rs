//! The judges against brute force, and against histories whose verdict is known.

mod appends;
mod brute;
mod linearizability;
mod random;
mod scripts;
