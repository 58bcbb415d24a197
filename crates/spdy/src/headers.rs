//! Header blocks: names and values. All blocks of one direction of a connection are one compressed stream.
//!
//! The client's blocks are decompressed with the dictionary of the protocol. The server sends few and nearly
//! empty blocks, so they are sent uncompressed, as stored blocks of deflate.

use bytes::{Buf, Bytes};
use flate2::{Decompress, FlushDecompress, Status};

use crate::ProtocolError;
use crate::limits::HEADERS_BYTES_MAX;

/// The words at the start of the dictionary; each follows its length in four bytes.
const WORDS: &str = "\
    options|head|post|put|delete|trace|accept|accept-charset|accept-encoding|accept-language|\
    accept-ranges|age|allow|authorization|cache-control|connection|content-base|\
    content-encoding|content-language|content-length|content-location|content-md5|content-range|\
    content-type|date|etag|expect|expires|from|host|if-match|if-modified-since|if-none-match|\
    if-range|if-unmodified-since|last-modified|location|max-forwards|pragma|proxy-authenticate|\
    proxy-authorization|range|referer|retry-after|server|te|trailer|transfer-encoding|upgrade|\
    user-agent|vary|via|warning|www-authenticate|method|get|status|200 OK|version|HTTP/1.1|url|\
    public|set-cookie|keep-alive|origin";

/// The rest of the dictionary, after the words.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415\
    416417502504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad \
    Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not \
    Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 \
    Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,\
    deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// The checksum (Adler-32) with which a zlib header identifies the dictionary.
const DICTIONARY_ID: u32 = 0xe3c6_a7c2;

/// The flag FDICT of a zlib header: the stream needs a dictionary.
const HAS_DICTIONARY: u8 = 0x20;

fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in WORDS.split('|') {
        let length = u32::try_from(word.len()).unwrap_or_default();
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(TAIL.as_bytes());
    bytes
}

/// Names, in lower case, with their values.
pub type Headers = Vec<(String, String)>;

/// Decompresses the header blocks of one direction of a connection, in their order.
pub struct Inflater {
    inner: Decompress,
    begun: bool,
}

impl Default for Inflater {
    fn default() -> Self {
        Self {
            inner: Decompress::new(false),
            begun: false,
        }
    }
}

impl Inflater {
    /// Decompresses and parses a block.
    ///
    /// # Errors
    /// *Errors.* The block cannot be decompressed, is too large, or is not a list of headers. The connection
    /// cannot continue then.
    pub fn headers(&mut self, block: &[u8]) -> Result<Headers, ProtocolError> {
        let mut block = block;
        if !self.begun {
            self.begin(&mut block)?;
            self.begun = true;
        }
        parse(self.inflate(block)?.into())
    }

    /// Parses the zlib header of the stream, and adds the dictionary to the window if the header requires it.
    fn begin(&mut self, block: &mut &[u8]) -> Result<(), ProtocolError> {
        let error = ProtocolError::Headers;
        if block.len() < 2 {
            return Err(error("too short"));
        }
        let (method, flags) = (block.get_u8(), block.get_u8());
        let sum = u16::from_be_bytes([method, flags]);
        if method & 0x0f != 8 || !sum.is_multiple_of(31) {
            return Err(error("no compressed stream"));
        }
        if flags & HAS_DICTIONARY == 0 {
            return Ok(());
        }
        if block.len() < 4 || block.get_u32() != DICTIONARY_ID {
            return Err(error("another dictionary"));
        }
        // The decompressor keeps the content of a stored block in its window for later blocks.
        let dictionary = dictionary();
        self.inflate(&stored(&dictionary)).map(|_| ())
    }

    fn inflate(&mut self, mut input: &[u8]) -> Result<Vec<u8>, ProtocolError> {
        let error = ProtocolError::Headers;
        let mut out = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let (read, written) = (self.inner.total_in(), self.inner.total_out());
            let status = self
                .inner
                .decompress(input, &mut buffer, FlushDecompress::Sync)
                .map_err(|_| error("does not decompress"))?;
            let consumed = usize::try_from(self.inner.total_in() - read).unwrap_or_default();
            let produced = usize::try_from(self.inner.total_out() - written).unwrap_or_default();
            input = &input[consumed..];
            out.extend_from_slice(&buffer[..produced]);
            if out.len() > HEADERS_BYTES_MAX {
                return Err(error("too large"));
            }
            if status == Status::StreamEnd {
                return Err(error("the compressed stream ends"));
            }
            if produced < buffer.len() && (input.is_empty() || (consumed == 0 && produced == 0)) {
                return Ok(out);
            }
        }
    }
}

fn parse(mut bytes: Bytes) -> Result<Headers, ProtocolError> {
    let error = ProtocolError::Headers;
    let count = bytes.try_get_u32().map_err(|_| error("no count"))?;
    let mut text = |what| {
        let length = bytes.try_get_u32().map_err(|_| error(what))? as usize;
        if bytes.len() < length {
            return Err(error(what));
        }
        let text = bytes.split_to(length);
        String::from_utf8(text.to_vec()).map_err(|_| error("not UTF-8"))
    };
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = text("a name is cut")?.to_ascii_lowercase();
        headers.push((name, text("a value is cut")?));
    }
    Ok(headers)
}

/// A block of headers as it is sent; `first` starts the compressed stream.
pub fn block(headers: &[(&str, &str)], first: bool) -> Vec<u8> {
    let mut plain = Vec::new();
    let number = |bytes: &mut Vec<u8>, value: usize| {
        let value = u32::try_from(value).unwrap_or_default();
        bytes.extend_from_slice(&value.to_be_bytes());
    };
    number(&mut plain, headers.len());
    for (name, value) in headers {
        for text in [name, value] {
            number(&mut plain, text.len());
            plain.extend_from_slice(text.as_bytes());
        }
    }
    // The zlib header 78 01: deflate, a window of 32 KiB, no dictionary.
    let mut bytes = if first { vec![0x78, 0x01] } else { Vec::new() };
    bytes.extend(stored(&plain));
    // An empty stored block is a flush, after which the peer has all data before it.
    bytes.extend(stored(&[]));
    bytes
}

/// Stored blocks of the deflate format.
fn stored(data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut part = |chunk: &[u8]| {
        let length = u16::try_from(chunk.len()).unwrap_or_default();
        bytes.push(0);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&(!length).to_le_bytes());
        bytes.extend_from_slice(chunk);
    };
    if data.is_empty() {
        part(data);
    }
    data.chunks(usize::from(u16::MAX)).for_each(part);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two blocks as zlib writes them with the dictionary: those of a port-forward connection.
    const ERROR_STREAM: [u8; 50] = [
        0x78, 0xf9, 0xe3, 0xc6, 0xa7, 0xc2, 0x02, 0x25, 0x3a, 0x70, 0x3a, 0x2b, 0x29, 0x4a, 0x4d,
        0xcc, 0x85, 0x16, 0x25, 0xac, 0xa9, 0xa0, 0x80, 0x86, 0x14, 0xcb, 0x45, 0xa0, 0x24, 0xcc,
        0x64, 0x61, 0x00, 0x24, 0x39, 0x8b, 0x20, 0x91, 0x98, 0x09, 0x4a, 0xdc, 0x8c, 0x06, 0x00,
        0x00, 0x00, 0x00, 0xff, 0xff,
    ];
    const DATA_STREAM: [u8; 14] = [
        0xc2, 0xaa, 0x15, 0x54, 0x0a, 0x25, 0x12, 0xd2, 0x09, 0x00, 0x00, 0x00, 0xff, 0xff,
    ];

    #[test]
    fn blocks_are_read_one_after_the_other() {
        // kubectl.md 5.6
        let mut inflater = Inflater::default();
        for (block, kind) in [(&ERROR_STREAM[..], "error"), (&DATA_STREAM[..], "data")] {
            let pairs = [("streamtype", kind), ("port", "80"), ("requestid", "0")];
            let expected: Headers = pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
            assert_eq!(inflater.headers(block).unwrap(), expected);
        }
    }

    #[test]
    fn other_dictionaries_and_other_bytes_are_refused() {
        let mut other = ERROR_STREAM;
        other[5] ^= 1;
        for bad in [
            &other[..],
            &ERROR_STREAM[..4],
            b"",
            b"nonsense",
            &[0x78, 0x01, 0x07],
        ] {
            assert!(Inflater::default().headers(bad).is_err(), "{bad:x?}");
        }
    }

    #[test]
    fn the_dictionary_is_the_published_one() {
        let mut sums = (1u32, 0u32);
        for byte in dictionary() {
            sums.0 = (sums.0 + u32::from(byte)) % 65_521;
            sums.1 = (sums.1 + sums.0) % 65_521;
        }
        assert_eq!(sums.1 << 16 | sums.0, DICTIONARY_ID);
        assert_eq!(dictionary().len(), 1423);
    }
}
