//! The decoders of client streams, for fuzzing. No other module uses this one.

use std::io::{self, Cursor, Read, Write};

use tokio_tungstenite::tungstenite::protocol::{Role, WebSocket};

use super::query;
use super::streams::{Protocol, client_message};

/// A client that has sent all its data, and that reads nothing.
struct FinishedClient<'b>(Cursor<&'b [u8]>);

impl Read for FinishedClient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for FinishedClient<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The number of subprotocols that clients can name.
pub const PROTOCOLS: usize = Protocol::NAMED.len();

/// Decodes all frames of a WebSocket (RFC 6455 §5) and their messages; returns the number of valid
/// messages.
pub fn web_socket(bytes: &[u8]) -> usize {
    let mut socket =
        WebSocket::from_raw_socket(FinishedClient(Cursor::new(bytes)), Role::Server, None);
    let mut count = 0;
    // The loop ends, because every message consumes bytes of the input.
    while let Ok(message) = socket.read() {
        for protocol in Protocol::NAMED {
            count += usize::from(client_message(message.clone(), protocol).is_some());
        }
    }
    count
}

/// The target of a probe's redirect; `None` if it is not followed.
pub fn probe_redirect(location: &str) -> Option<String> {
    crate::probes::http_probe::followed(location)
}

/// The number of entries of a Docker configuration for the registry of an image.
pub fn pull_secret(config: &[u8]) -> usize {
    crate::images::entries_for(config, "registry.example/app")
}

/// The path and the query parameters of a request to the node, decoded.
pub fn request(path: &str, query: &str) -> (Vec<u8>, Vec<(String, String)>) {
    (query::decode_path(path), query::parameters(Some(query)))
}

#[cfg(test)]
mod tests {
    use super::web_socket;

    #[test]
    fn frames_are_read_and_understood() {
        // The frames are masked with zeros: the input "a", a terminal size, and the end of the input, which
        // only version 5 has. The text protocols have no terminal size and no end of the input.
        let input = b"\x82\x82\0\0\0\0\0a";
        let size = b"\x82\x99\0\0\0\0\x04{\"Width\":80,\"Height\":24}";
        let end = b"\x82\x82\0\0\0\0\xff\0";
        assert_eq!(web_socket(input), 3);
        assert_eq!(web_socket(&[&input[..], size, end].concat()), 7);
        // An unmasked frame closes the connection.
        assert_eq!(web_socket(b"\x82\x02\0a"), 0);
    }
}
