//! Bytes to write and recognise.

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// An endless stream of bytes that do not repeat and do not compress, the same for the same seed
/// (xorshift64*, Marsaglia 2003).
pub struct Stream(u64);

impl Stream {
    /// Any seed will do.
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub const fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Fills a buffer.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for piece in buffer.chunks_mut(8) {
            let bytes = self.number().to_le_bytes();
            piece.copy_from_slice(&bytes[..piece.len()]);
        }
    }

    /// The next bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut buffer = vec![0; length];
        self.fill(&mut buffer);
        buffer
    }
}

/// SHA-256 of a whole file, in hexadecimal.
pub fn sha256_of(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut buffer).with_context(|| path.display().to_string())?;
        if length == 0 {
            return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hasher.update(&buffer[..length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_repeatable_and_different() {
        assert_eq!(Stream::new(7).bytes(100), Stream::new(7).bytes(100));
        assert_ne!(Stream::new(7).bytes(100), Stream::new(8).bytes(100));
        let bytes = Stream::new(1).bytes(1 << 16);
        let zeroes = bytes.iter().filter(|byte| **byte == 0).count();
        assert!((100..500).contains(&zeroes), "{zeroes} zeroes in 64 KiB");
    }

    #[test]
    fn the_digest_is_that_of_the_standard() {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), "abc").expect("written");
        let digest = sha256_of(file.path()).expect("read");
        assert_eq!(digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
