//! DNS messages: queries of pods, and responses of upstream servers.

use super::Target;

/// The first byte is the length of the query, which is followed by a response.
pub const DNS: Target = Target {
    name: "dns",
    seeds: &[
        // A query for an address, with EDNS.
        b"\x2f\x12\x34\x01\0\0\x01\0\0\0\0\0\x01\x03web\x07default\x03svc\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\x80\0\0\0",
        // The query and its response: an alias, and an address with a compression pointer to its name.
        b"\x1d\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01\x12\x34\x81\x80\0\x01\0\x02\0\0\0\0\x07example\x03com\0\0\x01\0\x01\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x06\x03www\xc0\x0c\xc0\x29\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01",
        // A query for a service record, and the response NXDOMAIN.
        b"\x1d\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x21\0\x01\x12\x34\x81\x83\0\x01\0\0\0\x01\0\0\x07example\x03com\0\0\x21\0\x01\xc0\x0c\0\x06\0\x01\0\0\0\x3c\0\x16\xc0\x0c\xc0\x0c\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x05",
    ],
    words: &["\u{0}\u{1}\u{0}\u{1}", "\u{c}", "\u{0}\u{29}", "\u{3f}"],
    run: |bytes| {
        let Some((&length, rest)) = bytes.split_first() else {
            return;
        };
        let (question, response) = rest.split_at(usize::from(length).min(rest.len()));
        for message in [
            cluster_dns::decoders::question(question),
            cluster_dns::decoders::question(rest),
            cluster_dns::decoders::forwarded(question, response),
        ] {
            let Some((message, max)) = message else { continue };
            assert!(message.len() <= max, "{} bytes, at most {max}", message.len());
            // A response that is sent back to its server must get no response.
            assert!(cluster_dns::decoders::question(&message).is_none());
        }
    },
};
