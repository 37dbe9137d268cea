//! Planners: pure functions from what the master knows to what should be done. The shell executes.

mod placement;

pub use placement::{NoRoom, PlacementServer, PlacementView, place};
