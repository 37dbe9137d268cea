//! What goes over the wire comes back the same, and what no peer of ours sends is refused.

mod generate;
mod refused;

use super::WireError;
use crate::error::FsError;
use crate::ops::OpResult;
use crate::wire;
use proptest::prelude::*;
use prost::Message;

/// Domain -> wire -> bytes -> wire -> domain.
fn over_the_wire<'a, D, W>(value: &'a D) -> D
where
    D: TryFrom<W, Error = WireError>,
    W: Message + Default + From<&'a D>,
{
    let bytes = W::from(value).encode_to_vec();
    let received = W::decode(bytes.as_slice()).expect("what prost encodes it decodes");
    D::try_from(received).expect("what we send we accept")
}

proptest! {
    #[test]
    fn batch(batch in generate::batch()) {
        prop_assert_eq!(&over_the_wire::<_, wire::Batch>(&batch), &batch);
    }
    #[test]
    fn batch_reply(reply in generate::batch_reply()) {
        prop_assert_eq!(&over_the_wire::<_, wire::BatchReply>(&reply), &reply);
    }
    #[test]
    fn keep_alive(alive in generate::keep_alive()) {
        prop_assert_eq!(&over_the_wire::<_, wire::KeepAlive>(&alive), &alive);
    }
    #[test]
    fn from_chunkserver(message in generate::from_chunkserver()) {
        prop_assert_eq!(&over_the_wire::<_, wire::FromChunkserver>(&message), &message);
    }
    #[test]
    fn to_chunkserver(message in generate::to_chunkserver()) {
        prop_assert_eq!(&over_the_wire::<_, wire::ToChunkserver>(&message), &message);
    }
}

#[test]
fn every_error_round_trips() {
    for error in FsError::ALL {
        let result: Result<OpResult, FsError> = Err(*error);
        assert_eq!(over_the_wire::<_, wire::OpResult>(&result), result);
    }
}

#[test]
fn a_long_reason_is_cut_at_a_character() {
    let long = "ä".repeat(super::TEXT_MAX);
    assert_eq!(super::for_people(&format!("x{long}")).len(), super::TEXT_MAX - 1);
    assert_eq!(super::for_people("short"), "short");
}
