//! The decoders of etcd's bytes, for tests that feed them any input.

use bytes::{Bytes, BytesMut};
use grpc::framing;
use mvcc_store::Revision;

use crate::{connections::MESSAGE_BYTES_MAX, messages, origin::OriginRecord, value};

/// Decodes a stream of messages, each as every answer that is in use, and the values in them. Returns
/// the number of messages.
pub fn stream(bytes: &[u8]) -> usize {
    let mut received = BytesMut::from(bytes);
    let mut count = 0;
    while let Ok(Some(message)) = framing::take(&mut received, MESSAGE_BYTES_MAX) {
        count += 1;
        let pairs = [
            messages::RangeResponse::read(&message).map(|range| range.pairs),
            messages::TxnResponse::read(&message).map(|txn| txn.responses.concat()),
            messages::WatchResponse::read(&message)
                .map(|watch| watch.events.into_iter().map(|event| event.pair).collect()),
        ];
        for pair in pairs.into_iter().flatten().flatten() {
            stored_value(&pair.value);
        }
        let _others = (
            messages::LeaseResponse::read(&message),
            messages::StatusResponse::read(&message),
            messages::has_no_space(&message),
        );
    }
    count
}

/// Decodes a stored value, and the same bytes as the record of the data's origin.
pub fn stored_value(stored: &Bytes) -> Option<Bytes> {
    let _record = OriginRecord::parse(stored);
    value::load(stored, Revision(1))
}
