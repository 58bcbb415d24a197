//! The decoders of etcd's bytes, for tests that feed them any input.

use bytes::{Bytes, BytesMut};
use mvcc_store::Revision;
use prost::Message as _;
use rpc_channel::framing;
use service_protocols::etcdserverpb as api;

use crate::{
    connections::MESSAGE_BYTES_MAX,
    messages::{self, RangeResponse, TxnResponse, WatchResponse},
    origin::OriginRecord,
    value,
};

/// Decodes a stream of messages: each message as every type of response that is in use, with the values in it. Returns
/// the number of messages.
pub fn stream(bytes: &[u8]) -> usize {
    let mut received = BytesMut::from(bytes);
    let mut count = 0;
    while let Ok(Some(message)) = framing::split_message(&mut received, MESSAGE_BYTES_MAX) {
        count += 1;
        let range = api::RangeResponse::decode(&*message).map(RangeResponse::from);
        let txn = api::TxnResponse::decode(&*message).map(TxnResponse::from);
        let watch = api::WatchResponse::decode(&*message).map(WatchResponse::from);
        let pairs = [
            range.map(|range| range.pairs),
            txn.map(|txn| txn.responses.concat()),
            watch.map(|watch| watch.events.into_iter().map(|event| event.pair).collect()),
        ];
        for pair in pairs.into_iter().flatten().flatten() {
            stored_value(&pair.value);
        }
        let alarms = api::AlarmResponse::decode(&*message);
        let _has_no_space = alarms.as_ref().map(messages::has_no_space);
    }
    count
}

/// Decodes a stored value; decodes its bytes also as the record of the origin.
pub fn stored_value(stored: &Bytes) -> Option<Bytes> {
    let _record = OriginRecord::parse(stored);
    value::load(stored, Revision(1))
}
