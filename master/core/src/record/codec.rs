//! Bytes of a record: little numbers as LEB128, signed ones zigzag, byte strings with their length.
//!
//! Reading never panics and never allocates more than the record has: whatever does not fit is `None`,
//! which the caller turns into `StoreError::Corrupt`.

use gfs_proto::time::Timestamp;

/// Appends fields to a record.
#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    /// A record of this format version, the first byte of every value.
    pub(crate) fn versioned(version: u8, capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity);
        bytes.push(version);
        Self(bytes)
    }
    pub(crate) fn byte(&mut self, value: u8) {
        self.0.push(value);
    }
    pub(crate) fn number(&mut self, value: impl Into<u64>) {
        let mut rest: u64 = value.into();
        while rest >= 0x80 {
            self.0.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.0.push(rest as u8);
    }
    pub(crate) fn signed(&mut self, value: i64) {
        self.number(((value << 1) ^ (value >> 63)) as u64);
    }
    pub(crate) fn time(&mut self, time: Timestamp) {
        self.signed(time.secs());
        self.number(time.nanos());
    }
    pub(crate) fn fixed(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.fixed(bytes);
    }
    pub(crate) fn numbers(&mut self, values: impl ExactSizeIterator<Item = u64>) {
        self.number(values.len() as u64);
        values.for_each(|value| self.number(value));
    }
    pub(crate) fn finish(self) -> Box<[u8]> {
        self.0.into_boxed_slice()
    }
}

/// Takes fields off a record.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// `None` unless the record is of this format version.
    pub(crate) fn versioned(version: u8, bytes: &'a [u8]) -> Option<Self> {
        let (first, rest) = bytes.split_first()?;
        (*first == version).then_some(Self(rest))
    }
    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }
    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return None;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
    /// A number of a narrower type.
    pub(crate) fn narrow<T: TryFrom<u64>>(&mut self) -> Option<T> {
        self.number()?.try_into().ok()
    }
    pub(crate) fn signed(&mut self) -> Option<i64> {
        let raw = self.number()?;
        Some((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }
    pub(crate) fn time(&mut self) -> Option<Timestamp> {
        let secs = self.signed()?;
        Timestamp::new(secs, self.narrow()?)
    }
    pub(crate) fn fixed<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }
    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length: usize = self.narrow()?;
        let (first, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(first)
    }
    pub(crate) fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }
    /// A list; each element takes at least one byte, which bounds the allocation.
    pub(crate) fn list<T>(&mut self, mut one: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count: usize = self.narrow()?;
        if count > self.0.len() {
            return None;
        }
        (0..count).map(|_| one(self)).collect()
    }
    /// `Some` if nothing is left over.
    pub(crate) fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn fields_round_trip(number: u64, signed: i64, secs: i64, nanos in 0u32..1_000_000_000, bytes: Vec<u8>) {
            let time = Timestamp::new(secs, nanos).expect("below a second");
            let mut writer = Writer::versioned(7, 0);
            writer.number(number);
            writer.signed(signed);
            writer.time(time);
            writer.bytes(&bytes);
            let record = writer.finish();
            let mut reader = Reader::versioned(7, &record).expect("that version");
            prop_assert_eq!(reader.number(), Some(number));
            prop_assert_eq!(reader.signed(), Some(signed));
            prop_assert_eq!(reader.time(), Some(time));
            prop_assert_eq!(reader.bytes(), Some(&bytes[..]));
            prop_assert_eq!(reader.end(), Some(()));
            prop_assert!(Reader::versioned(8, &record).is_none());
        }

        #[test]
        fn damaged_records_are_refused_not_believed(bytes: Vec<u8>) {
            let mut reader = Reader(&bytes);
            while reader.list(|r| r.bytes().map(<[u8]>::to_vec)).is_some() && !reader.0.is_empty() {}
        }
    }

    #[test]
    fn numbers_beyond_64_bits_are_refused() {
        let mut over = [0xff; 10];
        over[9] = 2;
        assert_eq!(Reader(&over).number(), None);
        assert_eq!(Reader(&[0xff; 11]).number(), None);
    }
}
