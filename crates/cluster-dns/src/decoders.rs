//! The decoders of untrusted bytes, for tests that feed them any input.

use hickory_proto::op::{Message, ResponseCode};

use crate::forward::{caching_seconds, response_from};
use crate::wire::{self, ParsedMessage, Response};

/// Parses a query as from UDP and returns the response for a name that does not exist, with the maximum length of the
/// response in bytes.
pub fn question(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    match wire::read(bytes) {
        ParsedMessage::Request(request) => {
            let max = request.udp_bytes_max();
            let response = request.respond(Response::code(ResponseCode::NXDomain), max)?;
            Some((response, max))
        }
        ParsedMessage::Refused(response) => Some((response, usize::from(u16::MAX))),
        ParsedMessage::Ignored => None,
    }
}

/// Parses the response of an upstream server to the query, and returns the response by UDP, with its maximum length.
pub fn forwarded(question: &[u8], reply: &[u8]) -> Option<(Vec<u8>, usize)> {
    let ParsedMessage::Request(request) = wire::read(question) else {
        return None;
    };
    let message = Message::from_vec(reply).ok()?;
    if !wire::answers(&message, message.metadata.id, &request.query) {
        return None;
    }
    let response = response_from(message);
    // The caching time is computed but not checked here.
    caching_seconds(&response);
    let max = request.udp_bytes_max();
    Some((request.respond(response, max)?, max))
}
