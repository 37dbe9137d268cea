//! Planners: pure functions from what the master knows to what should be done. The shell executes.

mod alignment;
mod placement;
mod queue;
mod rebalance;
mod repair;
mod throttle;

pub use alignment::{Alignment, Report, alignment};
pub use placement::{NoRoom, PlacementServer, PlacementView, place};
pub use queue::{RepairQueue, Urgency, Waiting};
pub use rebalance::rebalance_step;
pub use repair::{
    ChunkCopies, Health, Load, Need, Reason, RepairServer, RepairView, Standing, Step, adoptable, health, need,
    next_step,
};
pub use throttle::{Limits, Throttle};
