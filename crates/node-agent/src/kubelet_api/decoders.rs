//! The decoders of client streams, for fuzzing. No other module uses this one.

use std::io::{self, Cursor, Read, Write};

use tokio_tungstenite::tungstenite::protocol::{Role, WebSocket};

use super::query;
use super::streams::{Protocol, said};

/// A client that has said all it will say, and does not read.
struct Recorded<'b>(Cursor<&'b [u8]>);

impl Read for Recorded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Recorded<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How many protocols there are, each of which may say something by one message.
pub const PROTOCOLS: usize = Protocol::NAMED.len();

/// Reads all frames of a WebSocket (RFC 6455 §5), and what their messages say in a session; returns
/// how many said something.
pub fn web_socket(bytes: &[u8]) -> usize {
    let mut socket = WebSocket::from_raw_socket(Recorded(Cursor::new(bytes)), Role::Server, None);
    let mut count = 0;
    // Every message took bytes of the input, which ends.
    while let Ok(message) = socket.read() {
        for protocol in Protocol::NAMED {
            count += usize::from(said(message.clone(), protocol).is_some());
        }
    }
    count
}

/// Where a probe is sent by an answer; `None` where it is not followed.
pub fn probe_redirect(location: &str) -> Option<String> {
    crate::probes::http_probe::followed(location)
}

/// How many entries of a Docker configuration are for the registry of an image.
pub fn pull_secret(config: &[u8]) -> usize {
    crate::images::entries_for(config, "registry.example/app")
}

/// The path and the parameters of a request to the node, decoded.
pub fn request(path: &str, query: &str) -> (Vec<u8>, Vec<(String, String)>) {
    (query::decode_path(path), query::parameters(Some(query)))
}

#[cfg(test)]
mod tests {
    use super::web_socket;

    #[test]
    fn frames_are_read_and_understood() {
        // Masked with zeros: input "a", a size, the end of input, which only version 5 knows;
        // protocols in text know none of it.
        let input = b"\x82\x82\0\0\0\0\0a";
        let size = b"\x82\x99\0\0\0\0\x04{\"Width\":80,\"Height\":24}";
        let end = b"\x82\x82\0\0\0\0\xff\0";
        assert_eq!(web_socket(input), 3);
        assert_eq!(web_socket(&[&input[..], size, end].concat()), 7);
        // One that is not masked ends the connection.
        assert_eq!(web_socket(b"\x82\x02\0a"), 0);
    }
}
