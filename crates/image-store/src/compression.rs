//! Layers are plain, gzip or zstd; which, is told by their first bytes, whatever the media
//! type says.

use std::io::{self, BufReader, Read};

use ruzstd::decoding::StreamingDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};

const BUFFER_BYTES: usize = 64 << 10;

/// Reads what `compressed` contains.
pub(crate) fn decompressed<'a>(compressed: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut source = BufReader::with_capacity(BUFFER_BYTES, compressed);
    let mut magic = Vec::new();
    source.by_ref().take(4).read_to_end(&mut magic)?;
    let is_zstd = is_zstd(&magic);
    let is_gzip = magic.starts_with(&[0x1f, 0x8b]);
    let whole = io::Cursor::new(magic).chain(source);
    Ok(match (is_gzip, is_zstd) {
        (true, _) => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        (_, true) => Box::new(Frames {
            source: Some(Box::new(whole)),
            current: None,
        }),
        _ => Box::new(whole),
    })
}

/// A frame of data, or one to be skipped.
fn is_zstd(magic: &[u8]) -> bool {
    match magic {
        [0x28, 0xb5, 0x2f, 0xfd] => true,
        [low, 0x2a, 0x4d, 0x18] => low & 0xf0 == 0x50,
        _ => false,
    }
}

type Source<'a> = Box<dyn Read + 'a>;
type Decoder<'a> = StreamingDecoder<Source<'a>, ruzstd::decoding::FrameDecoder>;

/// zstd frames one behind the other: seekable archives consist of thousands.
struct Frames<'a> {
    source: Option<Source<'a>>,
    current: Option<Box<Decoder<'a>>>,
}

impl Read for Frames<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(decoder) = &mut self.current {
                match decoder.read(buffer)? {
                    0 if !buffer.is_empty() => {
                        self.source = self.current.take().map(|decoder| decoder.into_inner());
                    }
                    count => return Ok(count),
                }
            }
            if !self.begin_frame()? {
                return Ok(0);
            }
        }
    }
}

impl Frames<'_> {
    fn begin_frame(&mut self) -> io::Result<bool> {
        let Some(mut source) = self.source.take() else {
            return Ok(false);
        };
        let mut first = [0];
        loop {
            match source.read(&mut first) {
                Ok(0) => return Ok(false),
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let mut magic = [first[0], 0, 0, 0];
        source.read_exact(&mut magic[1..])?;
        if magic[1..] == [0x2a, 0x4d, 0x18] {
            let mut length = [0; 4];
            source.read_exact(&mut length)?;
            let length = u64::from(u32::from_le_bytes(length));
            if io::copy(&mut source.by_ref().take(length), &mut io::sink())? != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.source = Some(source);
            return self.begin_frame();
        }
        let whole: Source<'_> = Box::new(io::Cursor::new(magic).chain(source));
        match StreamingDecoder::new(whole) {
            Ok(decoder) => {
                self.current = Some(Box::new(decoder));
                Ok(true)
            }
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::BadMagicNumber(
                _,
            ))) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "bytes behind a zstd frame",
            )),
            Err(error) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                error.to_string(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn text(compressed: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        decompressed(compressed)
            .unwrap()
            .read_to_end(&mut out)
            .unwrap();
        out
    }

    #[test]
    fn each_form_is_told_by_its_first_bytes() {
        let plain = b"some text that is the same in each form".repeat(1000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let zstd = ruzstd::encoding::compress_to_vec(
            &plain[..],
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        let gzip = gzip.finish().unwrap();
        let skipped = [
            &[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9][..],
            &zstd[..],
        ]
        .concat();
        for compressed in [&plain, &gzip, &zstd, &skipped] {
            assert!(text(compressed) == plain);
        }
        assert!(text(&[&zstd[..], &skipped[..]].concat()) == plain.repeat(2));
        assert!(text(&[&gzip[..], &gzip[..]].concat()) == plain.repeat(2));
        assert!(text(b"").is_empty());
    }

    #[test]
    fn torn_streams_are_errors() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&[7; 100_000]).unwrap();
        let gzip = gzip.finish().unwrap();
        let mut out = Vec::new();
        let torn = &gzip[..gzip.len() - 5];
        assert!(decompressed(torn).unwrap().read_to_end(&mut out).is_err());
    }
}
