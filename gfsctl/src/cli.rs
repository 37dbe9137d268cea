//! The command line as a whole; what belongs to one command stands with it.

use crate::cmd::Command;
use clap::Parser;
use gfs_proto::limits::{MASTER_ADDRESS_DEFAULT, MASTER_ADDRESS_ENV};

/// Looks at a GFS cluster, moves files in and out of it, and runs a local one
#[derive(Parser, Debug)]
#[command(name = "gfsctl", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Address of the master; several, separated by commas, are tried in turn [default: what GFS_MASTER says, or
    /// 127.0.0.1:9400]
    #[arg(long, global = true, value_name = "HOST:PORT", default_value_t = master_default(), hide_default_value = true)]
    pub(crate) master: String,
    /// Print JSON instead of text for people
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Read here and not by clap, which takes an argument from the environment for one that is needed.
fn master_default() -> String {
    std::env::var(MASTER_ADDRESS_ENV).unwrap_or_else(|_| MASTER_ADDRESS_DEFAULT.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
