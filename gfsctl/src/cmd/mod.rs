//! The commands, one file each with its `Args` (help and examples in them) and its `run`. A new one is
//! such a file and a line in each of the lists below.

mod cat;
mod chunks;
mod chunkservers;
mod clients;
mod completions;
mod drain;
mod fsck;
mod get;
mod leases;
mod local;
mod ls;
mod maintenance;
mod man;
mod mkdir;
mod mv;
mod put;
mod remove;
mod rm;
mod scrub;
mod set_goal;
mod stat;
mod status;
mod verify;

use crate::context::Context;

macro_rules! commands {
    ($($module:ident => $name:ident;)*) => {
        /// What to do.
        #[derive(clap::Subcommand, Debug)]
        pub(crate) enum Command {
            $($name($module::Args),)*
        }

        impl Command {
            /// Does it, prints what there is to say, and returns the exit status.
            pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
                match self {
                    $(Self::$name(args) => context.print(&Box::pin($module::run(context, args)).await?),)*
                }
            }
        }
    };
}

commands! {
    status => Status;
    chunkservers => Chunkservers;
    chunks => Chunks;
    drain => Drain;
    maintenance => Maintenance;
    remove => Remove;
    scrub => Scrub;
    verify => Verify;
    fsck => Fsck;
    leases => Leases;
    clients => Clients;
    ls => Ls;
    stat => Stat;
    put => Put;
    get => Get;
    cat => Cat;
    rm => Rm;
    mkdir => Mkdir;
    mv => Mv;
    set_goal => SetGoal;
    local => Local;
    completions => Completions;
    man => Man;
}
