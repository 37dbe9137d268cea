//! Files that are open in this client: the table of handles and inodes, and what is known of an inode
//! that is being written before the master knows it.

mod overlay;
mod table;

pub(crate) use table::{Closed, Files, OpenFile, OpenInode, Opening, Unparked, UnsentReport};
