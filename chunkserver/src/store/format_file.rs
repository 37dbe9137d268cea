//! The file `format` of a storage directory: whose it is, and how the last run ended.
//!
//! Text, so that a person can read it: a first line with the version, `key value` lines, and the
//! CRC32C of everything before the last line. Replaced as a whole (write, flush, rename, flush).

use gfs_proto::ids::{ClusterId, Incarnation, ServerUuid, Term};
use gfs_proto::layout::ChunkSize;
use std::fmt::Write as _;

/// Newest format of a storage directory. Those of format 1 have no packs; they become directories of
/// format 2 when they are opened.
pub(super) const FORMAT: u32 = 2;
const MAGIC: &str = "gfs-chunkserver-directory";

/// Content of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FormatFile {
    pub cluster: Option<ClusterId>,
    pub chunk_size: Option<ChunkSize>,
    pub uuid: ServerUuid,
    pub incarnation: Incarnation,
    pub highest_term: Term,
    /// Of the machine when the last run began.
    pub boot_id: String,
    /// The last run ended with everything flushed and marked clean.
    pub stopped: bool,
}

/// Why the text is not a format file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum FormatError {
    Newer(u32),
    Damaged(String),
}

impl FormatFile {
    pub(super) fn encode(&self) -> String {
        let mut text = format!("{MAGIC} {FORMAT}\n");
        let mut line = |key: &str, value: &dyn std::fmt::Display| {
            writeln!(text, "{key} {value}").expect("writing to a string cannot fail");
        };
        if let Some(cluster) = self.cluster {
            line("cluster", &cluster);
        }
        if let Some(chunk_size) = self.chunk_size {
            line("chunk_size", &chunk_size.get());
        }
        line("server", &self.uuid);
        line("incarnation", &self.incarnation);
        line("term", &self.highest_term);
        line("boot", &self.boot_id);
        line("stopped", &if self.stopped { "clean" } else { "no" });
        let crc = crc32c::crc32c(text.as_bytes());
        text + &format!("crc {crc:08x}\n")
    }

    pub(super) fn decode(raw: &[u8]) -> Result<Self, FormatError> {
        let text = std::str::from_utf8(raw).map_err(|_| damaged("it is not text"))?;
        let first = text.lines().next().unwrap_or_default();
        let version = first.strip_prefix(MAGIC).and_then(|rest| rest.trim().parse().ok());
        match version {
            None | Some(0) => return Err(damaged("the first line is not that of a storage directory")),
            Some(1..=FORMAT) => {}
            Some(newer) => return Err(FormatError::Newer(newer)),
        }
        let body = text.len() - "crc 00000000\n".len().min(text.len());
        let sealed = text.get(body..) == Some(format!("crc {:08x}\n", crc32c::crc32c(&raw[..body])).as_str());
        if !sealed {
            return Err(damaged("its checksum does not match"));
        }
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        Ok(Self {
            cluster: optional(value("cluster"), "cluster")?,
            chunk_size: match optional::<u32>(value("chunk_size"), "chunk_size")? {
                None => None,
                Some(bytes) => Some(ChunkSize::new(bytes).ok_or_else(|| damaged("chunk_size is out of bounds"))?),
            },
            uuid: required(value("server"), "server")?,
            incarnation: Incarnation::new(required(value("incarnation"), "incarnation")?),
            highest_term: Term::new(required(value("term"), "term")?),
            boot_id: required(value("boot"), "boot")?,
            stopped: value("stopped") == Some("clean"),
        })
    }
}

fn damaged(what: &str) -> FormatError {
    FormatError::Damaged(what.to_owned())
}

fn optional<T: std::str::FromStr>(value: Option<&str>, key: &str) -> Result<Option<T>, FormatError> {
    value.map(|text| text.parse().map_err(|_| damaged(&format!("{key} cannot be read")))).transpose()
}

fn required<T: std::str::FromStr>(value: Option<&str>, key: &str) -> Result<T, FormatError> {
    optional(value, key)?.ok_or_else(|| damaged(&format!("{key} is missing")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> FormatFile {
        FormatFile {
            cluster: Some(ClusterId::new([7; 16])),
            chunk_size: ChunkSize::new(1 << 20),
            uuid: ServerUuid::new([9; 16]),
            incarnation: Incarnation::new(3),
            highest_term: Term::new(4),
            boot_id: "a-b-c".into(),
            stopped: true,
        }
    }

    #[test]
    fn round_trips() {
        for file in [sample(), FormatFile { cluster: None, chunk_size: None, stopped: false, ..sample() }] {
            assert_eq!(FormatFile::decode(file.encode().as_bytes()), Ok(file));
        }
    }

    #[test]
    fn a_file_of_the_first_format_is_read() {
        let text = "gfs-chunkserver-directory 1\nserver 09090909090909090909090909090909\nincarnation 3\nterm 4\n\
            boot a-b-c\nstopped clean\ncrc 00000000\n";
        let body = &text[..text.len() - 13];
        let text = format!("{body}crc {:08x}\n", crc32c::crc32c(body.as_bytes()));
        assert_eq!(FormatFile::decode(text.as_bytes()), Ok(FormatFile { cluster: None, chunk_size: None, ..sample() }));
    }

    #[test]
    fn newer_damaged_and_cut_files_are_refused() {
        let text = sample().encode();
        let newer = text.replacen("directory 2", "directory 3", 1);
        assert_eq!(FormatFile::decode(newer.as_bytes()), Err(FormatError::Newer(3)));
        for end in 0..text.len() {
            assert!(FormatFile::decode(&text.as_bytes()[..end]).is_err(), "cut at {end}");
        }
        for bit in 0..text.len() * 8 {
            let mut raw = text.clone().into_bytes();
            raw[bit / 8] ^= 1 << (bit % 8);
            assert!(FormatFile::decode(&raw).is_err(), "bit {bit}");
        }
    }
}
