//! Messages on the wire: a byte for compression (never used here), the length in four bytes, and the
//! protobuf message (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::RpcError;

/// Length of the header of a message.
pub const HEAD_BYTES: usize = 5;

/// The message with its header.
pub fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(HEAD_BYTES + message.len());
    framed.put_u8(0);
    // The server refuses messages far below this length.
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

/// Removes a complete message of at most `bytes_max` from the front; `None` if it is incomplete.
///
/// # Errors
/// The message is compressed or too long.
pub fn split_message(received: &mut BytesMut, bytes_max: usize) -> Result<Option<Bytes>, RpcError> {
    let Some((head, rest)) = received.split_first_chunk::<HEAD_BYTES>() else {
        return Ok(None);
    };
    let [compressed, length @ ..] = *head;
    let length = u32::from_be_bytes(length) as usize;
    if compressed != 0 || length > bytes_max {
        return Err(RpcError::broken(
            "a compressed message, or one that is too long",
        ));
    }
    if rest.len() < length {
        return Ok(None);
    }
    received.advance(HEAD_BYTES);
    Ok(Some(received.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES_MAX: usize = 4;

    fn split_result(received: &[u8]) -> (Result<Option<Bytes>, RpcError>, usize) {
        let mut received = BytesMut::from(received);
        let split_result = split_message(&mut received, BYTES_MAX);
        (split_result, received.len())
    }

    #[test]
    fn a_message_is_taken_when_it_is_complete() {
        let two = [framed(b"abcd"), framed(b"")].concat();
        for length in 0..9 {
            let (split_result, left) = split_result(&two[..length]);
            assert!(matches!(split_result, Ok(None)), "{length}");
            assert_eq!(left, length);
        }
        let (first, left) = split_result(&two);
        assert_eq!(first.unwrap().unwrap(), "abcd");
        assert_eq!(left, HEAD_BYTES);
    }

    #[test]
    fn long_and_compressed_messages_are_refused_by_their_head() {
        for head in [
            [0, 0, 0, 0, 5],
            [0, 0xff, 0xff, 0xff, 0xff],
            [1, 0, 0, 0, 1],
        ] {
            let (split_result, _) = split_result(&head);
            assert!(matches!(split_result, Err(RpcError::Broken(_))), "{head:?}");
        }
    }
}
