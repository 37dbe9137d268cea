//! Real chunkservers in one process, on real directories and sockets, with a master that is made up.

mod align;
mod binary;
mod harness;
mod link;
mod loans;
mod protocol;
mod reads;
mod writes;
